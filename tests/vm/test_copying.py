"""Files and folders in and out, with the host's own shells and tars in the guest's place."""

import io
import os
import shutil
import socket
import subprocess
import tarfile
import warnings
from pathlib import Path

import pytest
from host_shell import HostShell, busybox_shell
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from trees import facts, lay, nasty, picture

from pytest_vmports.errors import CopyTimeoutError, GuestFileError, GuestFileWarning
from pytest_vmports.vm.inside import copying


def put(source, target):
    copying.put(HostShell(), source, str(target), 10)


def get(source, target):
    return copying.get(HostShell(), str(source), target, 10)


@pytest.fixture
def files(tmp_path):
    here = tmp_path / "here"
    (here / "deep").mkdir(parents=True)
    (here / "deep" / "run").write_bytes(bytes(range(256)))
    (here / "deep" / "run").chmod(0o755)
    (here / "odd 'name'").write_text("odd")
    return here


def test_a_file_gets_its_new_name_or_goes_into_a_folder(files, tmp_path):
    source = files / "deep" / "run"
    put(source, tmp_path / "new" / "name")
    put(source, f"{tmp_path}/folder/")
    put(source, tmp_path / "folder" / "deeper/")
    (tmp_path / "there").mkdir()
    put(source, tmp_path / "there")
    for place in ("new/name", "folder/run", "folder/deeper", "there/run"):
        copy = tmp_path / place
        assert copy.read_bytes() == bytes(range(256)), place
        assert copy.stat().st_mode & 0o777 == 0o755


def test_a_folder_goes_whole_and_what_is_there_stays(files, tmp_path):
    put(files, tmp_path / "copy")
    (tmp_path / "copy" / "mine").touch()
    (tmp_path / "into").mkdir()
    put(files, tmp_path / "into")
    put(files, f"{tmp_path}/into/")
    assert (tmp_path / "copy" / "deep" / "run").is_file()
    assert (tmp_path / "copy" / "mine").exists()
    assert (tmp_path / "into" / "here" / "odd 'name'").read_text() == "odd"


def test_what_is_put_replaces_what_was_there(files, tmp_path):
    (tmp_path / "name").write_text("old")
    put(files / "odd 'name'", tmp_path / "name")
    assert (tmp_path / "name").read_text() == "odd"


def test_a_file_comes_out_into_a_folder_or_under_a_new_name(files, tmp_path):
    assert get(files / "deep" / "run", tmp_path) == tmp_path / "run"
    assert get(files / "odd 'name'", tmp_path / "new") == tmp_path / "new"
    assert (tmp_path / "run").read_bytes() == bytes(range(256))
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "new").read_text() == "odd"


def test_what_is_put_belongs_to_root_in_the_guest(files, tmp_path, monkeypatch):
    of_somebody = os.lstat

    def lstat(*words, **keywords):
        found = of_somebody(*words, **keywords)
        return os.stat_result((*found[:4], 1234, 1234, *found[6:]))

    monkeypatch.setattr(os, "lstat", lstat)
    host = HostShell()
    copying.put(host, files, str(tmp_path / "copy"), 10)
    with tarfile.open(fileobj=io.BytesIO(host.given)) as archive:
        owners = {(m.uid, m.gid, m.uname, m.gname) for m in archive}
    assert owners == {(0, 0, "root", "root")}


def test_what_is_not_there_is_named(files, tmp_path):
    with pytest.raises(GuestFileError, match=r"there is no .*nothing on the host"):
        put(tmp_path / "nothing", "/srv")
    with pytest.raises(GuestFileError, match="nothing from the guest could not be copied"):
        get(tmp_path / "nothing", tmp_path)
    with pytest.raises(GuestFileError, match="names no file"):
        get("/", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(GuestFileError, match="could not be copied"):
        put(files, tmp_path / "file" / "below")


# --- archives that no honest tar would write ----------------------------------------------------


class TarShell:
    """A guest whose answer to everything is this archive."""

    def __init__(self, *members):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for member, content in members:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        self.answer = packed.getvalue()

    def execute(self, command, *, timeout, input, sink, per_progress):  # noqa: A002
        sink.out(self.answer)
        return 0, b"", b""


def entry(name, kind=tarfile.REGTYPE, **facts):
    member = tarfile.TarInfo(name)
    member.type = kind
    for fact, value in facts.items():
        setattr(member, fact, value)
    return member


@pytest.fixture
def out(tmp_path):
    """Return a function: what `get` of ``/srv/app`` brings; its folder lies in one of its own."""
    target = tmp_path / "host" / "deep"
    target.mkdir(parents=True)

    def got(*members):
        return copying.get(TarShell(*members), "/srv/app", target, 10)

    return got


def everything_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("name", ["app/../evil", "app/../../evil", "app/sub/../../../evil"])
def test_a_name_that_climbs_out_is_refused_and_writes_nothing(out, tmp_path, name):
    with pytest.raises(GuestFileError, match="leads out of app"):
        out((entry(name), b"evil"))
    assert everything_below(tmp_path) == ["host", "host/deep"]


@pytest.mark.parametrize("name", ["/etc/evil", "evil", "../evil", "application"])
def test_a_name_that_was_not_asked_for_writes_nothing(out, tmp_path, name):
    with pytest.raises(GuestFileError, match="no archive of it"):
        out((entry(name), b"evil"))
    assert everything_below(tmp_path) == ["host", "host/deep"]


@pytest.mark.parametrize("answer", [b"", b"no tar at all", bytes(511), b"x" * 2048], ids=repr)
def test_what_is_no_archive_is_told_as_the_guests_doing(tmp_path, answer):
    guest = TarShell()
    guest.answer = answer
    with pytest.raises(GuestFileError, match="no archive of it"):
        copying.get(guest, "/srv/app", tmp_path, 10)
    assert everything_below(tmp_path) == []


def test_a_second_name_of_nothing_is_told_as_the_guests_doing(out):
    with pytest.raises(GuestFileError, match="no archive of it"):
        out((entry("app", tarfile.LNKTYPE, linkname="nothing"), b""))


def test_nothing_is_written_through_a_link_of_an_archive(out, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    folder = (entry("app", tarfile.DIRTYPE, mode=0o755), b"")
    for target in (str(outside), "../../../outside", "."):
        link = (entry("app/link", tarfile.SYMTYPE, linkname=target), b"")
        for below in ("app/link/evil", "app/link/deep/evil"):
            with pytest.raises(GuestFileError, match=r"link is no folder here, but a link"):
                out(folder, link, (entry(below), b"evil"))
            with pytest.raises(GuestFileError, match=r"link is no folder here, but a link"):
                out(folder, (entry(below, tarfile.DIRTYPE, mode=0o755), b""))
        out(folder, link, (entry("app/link"), b"mine"))  # in its place
        place = out(folder, link)
        assert os.readlink(place / "link") == target
        assert everything_below(outside) == []
    assert everything_below(tmp_path) == [
        "host", "host/deep", "host/deep/app", "host/deep/app/link", "outside",
    ]  # fmt: skip


def test_a_second_name_of_what_was_not_sent_is_not_made(out, tmp_path):
    (tmp_path / "precious").write_text("mine")
    folder = (entry("app", tarfile.DIRTYPE, mode=0o755), b"")
    link = (entry("app/link", tarfile.SYMTYPE, linkname=str(tmp_path / "precious")), b"")
    for first in (str(tmp_path / "precious"), "../../precious", "app/two", "app/link/x", "app"):
        with pytest.raises(GuestFileError, match="no archive of it"):
            out(folder, link, (entry("app/two", tarfile.LNKTYPE, linkname=first), b""))
    # That of a link is a link.
    place = out(folder, link, (entry("app/two", tarfile.LNKTYPE, linkname="app/link"), b""))
    assert os.readlink(place / "two") == str(tmp_path / "precious")
    assert (tmp_path / "precious").stat().st_nlink == 1


def test_what_was_asked_for_is_no_link(out, tmp_path):
    with pytest.raises(GuestFileError, match="a link where it leads to was asked for"):
        out((entry("app", tarfile.SYMTYPE, linkname=str(tmp_path)), b""))


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_a_target_of_another_kind_stays_as_it_is(out, tmp_path, kind):
    place = tmp_path / "host" / "deep" / "app"
    (tmp_path / "precious").write_text("mine")
    if kind == "folder":
        place.mkdir()
    elif kind == "link":
        place.symlink_to("../../precious")
    else:
        os.mkfifo(place)
    before = os.lstat(place)
    with pytest.raises(GuestFileError, match=r"app is .* here, and a file in the guest"):
        out((entry("app"), b"evil"))
    if kind != "folder":
        with pytest.raises(GuestFileError, match=r"app is no folder here"):
            out((entry("app", tarfile.DIRTYPE, mode=0o700), b""))
    assert (before.st_ino, before.st_mode) == (os.lstat(place).st_ino, os.lstat(place).st_mode)
    assert (tmp_path / "precious").read_text() == "mine"


def raw(size_field, kind=b"0"):
    """Return a header whose size is these bytes."""
    head = bytearray(entry("app").tobuf(tarfile.GNU_FORMAT))
    head[124:136], head[156:157] = size_field, kind
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


def sparse():
    """Return an archive of a file that is one hole."""
    head = bytearray(raw(b"%011o\0" % 0, b"S"))
    head[386:410] = b"%011o\0%011o\0" % (1 << 24, 0)
    head[483:495] = b"%011o\0" % (1 << 24)
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + bytes(1024)


@pytest.mark.parametrize(
    "answer",
    [
        bytes(1024),
        raw(b"\xff" * 11 + b"\x00") + bytes(1024),  # minus 256 bytes
        raw(b"%011o\0" % 5000) + b"too short",
        raw(b"%011o\0" % 5000, b"L") * 40,
        sparse(),
        entry("app").tobuf(tarfile.GNU_FORMAT) + b"garbage" * 200,
        entry("app").tobuf(tarfile.GNU_FORMAT),
    ],
    ids=["empty", "negative", "short", "names", "sparse", "garbage", "no-end"],
)
def test_an_archive_that_is_not_whole_is_told_as_the_guests_doing(tmp_path, answer):
    guest = TarShell()
    guest.answer = answer
    with pytest.raises(GuestFileError, match="no archive of it"):
        copying.get(guest, "/srv/app", tmp_path / "out", 10)


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_neither_devices_nor_pipes_are_made_and_that_is_said(out, kind):
    with pytest.warns(GuestFileWarning, match="not all of .*\n  app/odd$"):
        place = out(
            (entry("app", tarfile.DIRTYPE, mode=0o755), b""),
            (entry("app/odd", kind, devmajor=1, devminor=3), b""),
            (entry("app/file"), b"content"),
        )
    assert everything_below(place) == ["file"]


@pytest.mark.parametrize("bits", [0o4000, 0o2000, 0o1000, 0o7000])
def test_a_file_runs_as_nobody_but_who_starts_it(out, bits):
    place = out((entry("app", mode=bits | 0o755), b"content"))
    assert os.stat(place).st_mode & 0o7777 == 0o755


def test_a_second_name_of_a_file_is_one_of_the_copy(out):
    place = out(
        (entry("app", tarfile.DIRTYPE, mode=0o755), b""),
        (entry("app/one", mode=0o644), b"content"),
        (entry("app/two", tarfile.LNKTYPE, linkname="app/one", mode=0o644), b""),
    )
    assert (place / "two").read_bytes() == b"content"
    assert (place / "one").stat().st_ino == (place / "two").stat().st_ino


# --- pairs of trees, bit by bit -----------------------------------------------------------------


# No guest's tar is anything but root's, and busybox's is another for anybody else.
SHELLS = ["host", "busybox"] if os.geteuid() == 0 else ["host"]


@pytest.fixture(scope="module", params=SHELLS)
def guest(request, tmp_path_factory):
    """Return a guest's shell, the host's with its tar, or that of the bundled guest."""
    if request.param == "host":
        return HostShell()
    return busybox_shell(tmp_path_factory.mktemp("busybox"))


NAMES = [
    b"-f", b"--help", b"-", b"--", b"a\nb", b"a\\nb", b"a\\", b" ", b"end ", b"\t", b"*",
    b"?", b"[a]", b"~",
    b"$HOME", b"`id`", b"'", b'"', b"a'b\"c", b"#x", b"\xff\xfe", "ä".encode(),
    b"...", b".hidden", b"\x1b[31m",
    b"x" * 99, b"x" * 100, b"x" * 101, b"x" * 255, b"a=b", b"@LongLink", b"!",
    b";", b"&", b"\r", b"..x",
]  # fmt: skip
names = st.sampled_from(NAMES) | st.binary(min_size=1, max_size=20).filter(
    lambda name: name not in {b".", b".."} and not {0, 47} & set(name)
)
targets = st.sampled_from(
    [b".", b"..", b"/", b"/nowhere", b"../../../x", b"-f", b"t" * 100, b"t" * 101, b"t" * 300]
)
files_of_a_tree = st.binary(max_size=1500) | st.tuples(
    st.sampled_from([0o400, 0o600, 0o644, 0o755, 0o777, 0o4755, 0o2755, 0o1644]),
    st.binary(max_size=9),
)
trees = st.recursive(
    st.dictionaries(names, files_of_a_tree | targets.map(lambda to: ("link", to)), max_size=5),
    lambda inner: st.dictionaries(names, inner | files_of_a_tree, max_size=4),
    max_leaves=12,
)
some = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
numbers = iter(range(1_000_000))


def in_guest(path):
    return path.decode("utf-8", "surrogateescape")


@some
@given(tree=trees, own=names)
@example(tree={b"f": b"x"}, own=b"a\\nb")
def test_what_comes_out_is_the_tree_that_was_there(guest, tmp_path, tree, own):
    here = os.fsencode(tmp_path / str(next(numbers)))
    os.mkdir(here)
    source = os.path.join(here, own)
    lay(source, tree)
    got = copying.get(guest, in_guest(source), os.fsdecode(here) + "/out/", 30)
    assert os.fsencode(got) == os.path.join(here, b"out", own)
    assert picture(got) == picture(source, special_bits=False)


@some
@given(tree=trees, own=names, target=names)
def test_what_goes_in_is_the_tree_that_was_here(guest, tmp_path, tree, own, target):
    here = os.fsencode(tmp_path / str(next(numbers)))
    os.mkdir(here)
    source, copy = os.path.join(here, own), os.path.join(here, b"new", target)
    lay(source, tree)
    copying.put(guest, os.fsdecode(source), in_guest(copy), 30)
    assert_same(guest, copy, source)
    if own not in tree:  # into it
        copying.put(guest, os.fsdecode(source), in_guest(copy), 30)
        assert_same(guest, os.path.join(copy, own), source)


def assert_same(guest, copy, source):
    links = guest.path is None  # busybox gives a link no time
    assert picture(copy, times_of_links=links) == picture(source, times_of_links=links)


@some
@given(own=names, target=names, content=st.binary(max_size=600))
def test_a_single_file_keeps_its_content_and_name(guest, tmp_path, own, target, content):
    here = os.fsencode(tmp_path / str(next(numbers)))
    lay(here, {own: (0o754, content), b"in to": {}})
    text = in_guest(here)
    source = os.fsdecode(os.path.join(here, own))
    copying.put(guest, source, f"{text}/in to", 30)
    copying.put(guest, source, f"{text}/new/{in_guest(target)}", 30)
    copies = [os.path.join(here, b"in to", own), os.path.join(here, b"new", target)]
    got = copying.get(guest, f"{text}/{in_guest(own)}", text + "/in to", 30)
    copies.append(os.fsencode(got))
    for copy in copies:
        assert facts(copy, b"", {}, True, True) == facts(source, b"", {}, True, True)


def test_the_tree_of_all_that_went_wrong_goes_both_ways(guest, tmp_path):
    source = nasty(str(tmp_path / "source"))
    copying.put(guest, source, str(tmp_path / "in"), 30)
    assert_same(guest, tmp_path / "in", source)
    copying.get(guest, source, str(tmp_path / "out"), 30)
    assert picture(tmp_path / "out") == picture(source, special_bits=False)
    again = tmp_path / "again"
    for _ in range(2):  # the second time over the first
        copying.put(guest, source, f"{again}/", 30)
        copying.get(guest, source, f"{again}/out/", 30)
    assert_same(guest, again / "source", source)
    assert picture(again / "out" / "source") == picture(source, special_bits=False)


def test_what_nobody_but_root_may_change_or_read_goes_both_ways(guest, tmp_path):
    mine = os.geteuid() != 0  # root reads a file of mode 0
    lay(tmp_path / "source", {b"none": (0o400 * mine, b"secret"), b"folder": {b"in": b"x"}})
    (tmp_path / "source" / "folder").chmod(0o500 * mine)
    copying.put(guest, tmp_path / "source", str(tmp_path / "in"), 30)
    copying.get(guest, str(tmp_path / "source"), tmp_path / "out", 30)
    assert picture(tmp_path / "in") == picture(tmp_path / "out") == picture(tmp_path / "source")


def test_a_link_that_is_named_itself_is_followed_and_lends_its_name(guest, tmp_path):
    lay(tmp_path / "real-1.2", {b"x": b"y"})
    (tmp_path / "file-1.2").write_text("content")
    for kind in ("real", "file"):
        (tmp_path / kind).symlink_to(f"{kind}-1.2")
        copying.put(guest, tmp_path / kind, f"{tmp_path}/in/", 30)
        copying.get(guest, str(tmp_path / kind), f"{tmp_path}/out/", 30)
        for copy in (tmp_path / "in" / kind, tmp_path / "out" / kind):
            assert not copy.is_symlink()
            assert picture(copy) == picture(tmp_path / f"{kind}-1.2")
            assert kind == "real" or copy.read_text() == "content"


@pytest.mark.parametrize("source", ["/proc/version", "/proc/self/mounts", "/etc/mtab"])
def test_a_file_that_has_no_size_has_its_content(guest, tmp_path, source):
    if not Path(source).exists():  # a link to the one before, where there is one
        source = "/proc/cpuinfo"
    assert copying.get(guest, source, tmp_path / "out", 30).read_bytes()
    copying.put(guest, source, str(tmp_path / "in"), 30)
    assert (tmp_path / "in").read_bytes()


def test_a_folder_of_files_without_a_size_has_their_content(guest, tmp_path, monkeypatch):
    (tmp_path / "staged").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "staged"))
    source = Path("/proc/sys/user")
    copying.put(guest, source, str(tmp_path / "in"), 30)
    got = copying.get(guest, str(source), tmp_path / "out", 30)
    for copy in (got, tmp_path / "in"):
        assert sorted(os.listdir(copy)) == sorted(os.listdir(source))
        for one in source.iterdir():
            assert (copy / one.name).read_bytes() == one.read_bytes()
    assert os.listdir(tmp_path / "staged") == []


def test_a_socket_is_named_and_the_rest_is_copied(guest, tmp_path, monkeypatch):
    lay(tmp_path / "source", {b"file": b"content"})
    monkeypatch.chdir(tmp_path / "source")  # an address is short
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("door")
    with pytest.warns(GuestFileWarning, match="door"):
        copying.put(guest, tmp_path / "source", str(tmp_path / "in"), 30)
    with pytest.warns(GuestFileWarning, match="door"):
        copying.get(guest, str(tmp_path / "source"), tmp_path / "out", 30)
    assert everything_below(tmp_path / "in") == everything_below(tmp_path / "out") == ["file"]


def test_a_pipe_goes_in_and_is_named_where_it_stays_out(guest, tmp_path):
    lay(tmp_path / "source", {b"file": b"content"})
    os.mkfifo(tmp_path / "source" / "pipe")
    copying.put(guest, tmp_path / "source", str(tmp_path / "in"), 30)
    assert (tmp_path / "in" / "pipe").is_fifo()
    with pytest.warns(GuestFileWarning, match="source/pipe"):
        copying.get(guest, str(tmp_path / "source"), tmp_path / "out", 30)
    assert everything_below(tmp_path / "out") == ["file"]
    with pytest.raises(GuestFileError, match="neither a file nor a folder"):
        copying.put(guest, tmp_path / "source" / "pipe", str(tmp_path / "in"), 30)
    with pytest.raises(GuestFileError, match="neither a file nor a folder"):
        copying.get(guest, str(tmp_path / "source" / "pipe"), tmp_path / "new", 30)


def test_second_names_of_all_kinds_are_kept_or_named(guest, tmp_path):
    lay(tmp_path / "source", {b"a": b"content", b"link": ("link", b"a")})
    os.mkfifo(tmp_path / "source" / "pipe")
    os.mkdir(tmp_path / "source" / "more")
    for name in ("a", "link", "pipe"):
        for second in ("more/x", "0", "z"):
            os.link(
                tmp_path / "source" / name, tmp_path / "source" / f"{second}{name}",
                follow_symlinks=False,
            )  # fmt: skip
    copying.put(guest, tmp_path / "source", str(tmp_path / "in"), 30)
    assert_same(guest, tmp_path / "in", tmp_path / "source")
    with pytest.warns(GuestFileWarning) as told:
        copying.get(guest, str(tmp_path / "source"), tmp_path / "out", 30)
    for name in ("pipe", "more/xpipe", "0pipe", "zpipe"):
        assert f"\n  source/{name}" in str(told[0].message)
        os.unlink(tmp_path / "source" / name)
    for folder in (tmp_path / "source", tmp_path / "source" / "more"):
        os.utime(folder, (9, 9))
        os.utime(tmp_path / "out" / folder.relative_to(tmp_path / "source"), (9, 9))
    assert picture(tmp_path / "out") == picture(tmp_path / "source")
    links = [tmp_path / "out" / name for name in ("link", "zlink", "more/xlink")]
    assert len({os.lstat(link).st_ino for link in links}) == 1


def test_a_link_to_nothing_and_a_loop_are_named(guest, tmp_path):
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("dangling", "loop"):
        with pytest.raises(GuestFileError, match=r"there is no .* on the host"):
            copying.put(guest, tmp_path / name, "/srv", 30)
        with pytest.raises(GuestFileError, match="a link that leads nowhere"):
            copying.get(guest, str(tmp_path / name), tmp_path / "new", 30)


def test_what_cannot_be_read_stops_the_copy_before_anything_is_sent(tmp_path, monkeypatch):
    lay(tmp_path / "source", {b"a": b"x", b"folder": {b"b": b"y"}})
    refused = os.fsencode(tmp_path / "source" / "folder" / "b")
    opened = os.open

    def as_somebody_else(path, *words, **keywords):
        if os.fsencode(path) == refused:
            raise PermissionError(13, "Permission denied", path)
        return opened(path, *words, **keywords)

    monkeypatch.setattr(os, "open", as_somebody_else)
    host = HostShell()
    with pytest.raises(GuestFileError, match=r"folder/b on the host cannot be read: Permission"):
        copying.put(host, tmp_path / "source", str(tmp_path / "in"), 30)
    assert host.asked == []


def test_a_kind_that_does_not_fit_is_named_and_stays(guest, tmp_path):
    lay(tmp_path / "tree", {b"x": b"y"})
    (tmp_path / "file").write_text("content")
    lay(tmp_path / "there", {b"tree": b"a file", b"file": {}})
    for source in ("tree", "file"):
        for target in (tmp_path / "there", tmp_path / "there" / "file" / "deeper" / ".." / ".."):
            with pytest.raises(GuestFileError, match=r"is no (file|folder)"):
                copying.put(guest, tmp_path / source, str(target), 30)
    with pytest.raises(GuestFileError, match="is no folder"):
        copying.put(guest, tmp_path / "tree", str(tmp_path / "file"), 30)
    assert (tmp_path / "there" / "tree").read_text() == "a file"
    assert (tmp_path / "there" / "file").is_dir()
    assert (tmp_path / "file").read_text() == "content"


def test_a_copy_over_a_tree_of_other_kinds_is_refused_whole(guest, tmp_path):
    lay(tmp_path / "s", {b"a": b"new", b"lib\n'": {b"f": b"x"}})
    for there in (("link", b"usr"), ("link", b"nowhere"), b"a file"):
        lay(tmp_path / "there", {b"s": {b"usr": {}, b"a": b"old", b"lib\n'": there}})
        before = picture(tmp_path / "there")
        with pytest.raises(GuestFileError, match=r"lib\n\| ' is no folder"):
            copying.put(guest, tmp_path / "s", str(tmp_path / "there"), 30)
        assert picture(tmp_path / "there") == before
        with pytest.raises(GuestFileError, match=r"lib\\n' is no folder"):
            copying.get(guest, str(tmp_path / "s"), tmp_path / "there", 30)
        shutil.rmtree(tmp_path / "there")
    lay(tmp_path / "there", {b"s": {b"a": {}}})
    with pytest.raises(GuestFileError, match=r"\./a is no file"):
        copying.put(guest, tmp_path / "s", str(tmp_path / "there"), 30)
    with pytest.raises(GuestFileError, match=r"a is a folder here"):
        copying.get(guest, str(tmp_path / "s"), tmp_path / "there", 30)


@pytest.mark.parametrize("to", ["new", "tgt", "tgt/d/..", "tgt/.", "link/"])
@pytest.mark.parametrize("what", ["src", "src/", "src/./", "src/d/..", "file"])
def test_a_copy_lands_where_cp_would_put_it(guest, tmp_path, what, to):
    before = {
        b"file": b"f", b"src": {b"a": b"new", b"d": {b"x": b"y"}, b"l": ("link", b"a")},
        b"tgt": {b"own": b"", b"a": b"old", b"d": {b"z": b""}}, b"link": ("link", b"tgt"),
    }  # fmt: skip
    for copier in ("cp", "put", "get"):
        lay(tmp_path / copier, before)
    subprocess.run(["cp", "-a", what, to], cwd=tmp_path / "cp", check=True)
    copying.put(guest, f"{tmp_path}/put/{what}", f"{tmp_path}/put/{to}", 30)
    seen = [picture(tmp_path / "put", times_of_links=False)]
    if not what.endswith(".."):  # what a guest's folder is called above is not known here
        copying.get(guest, f"{tmp_path}/get/{what}", f"{tmp_path}/get/{to}", 30)
        seen.append(picture(tmp_path / "get", times_of_links=False))
    expected = picture(tmp_path / "cp", times_of_links=False)
    # Whose time is that of the copy, as a name was made in it.
    touched = [b"."] if "." in what else [b".", b"tgt"]
    for one in (expected, *seen):
        one.update({name: one[name][:2] for name in touched})
    assert all(one == expected for one in seen)


def test_what_a_file_has_in_it_is_no_folders_content(guest, tmp_path):
    (tmp_path / "file").write_text("content")
    with pytest.raises(GuestFileError, match="is no folder on the host"):
        copying.put(guest, f"{tmp_path}/file/.", f"{tmp_path}/in", 30)
    assert everything_below(tmp_path) == ["file"]


def test_a_target_named_by_dots_is_a_folder_here_too(guest, tmp_path):
    lay(tmp_path / "src", {b"x": b"y"})
    (tmp_path / "file").write_text("content")
    for number, ending in enumerate(("/.", "/..", "/./", "/../.")):
        copying.put(guest, tmp_path / "src", f"{tmp_path}/in{number}/new{ending}", 30)
        copying.get(guest, str(tmp_path / "src"), f"{tmp_path}/out{number}/new{ending}", 30)
        copying.get(guest, str(tmp_path / "file"), f"{tmp_path}/out{number}/new{ending}", 30)
        below = "" if ".." in ending else "new/"
        assert (tmp_path / f"in{number}" / f"{below}src" / "x").read_text() == "y"
        assert (tmp_path / f"out{number}" / f"{below}src" / "x").read_text() == "y"
        assert (tmp_path / f"out{number}" / f"{below}file").read_text() == "content"


@pytest.mark.parametrize("there", [("link", b"x"), ("link", b"nowhere"), {}])
def test_what_was_refused_at_once_has_left_nothing(out, tmp_path, there):
    lay(tmp_path / "host" / "deep" / "app", there) if isinstance(there, dict) else os.symlink(
        there[1], tmp_path / "host" / "deep" / "app"
    )
    with pytest.raises(GuestFileError, match=r"app is a .* here, and a file") as caught:
        out((entry("app"), b"content"))
    assert "part of it" not in str(caught.value)


def test_a_file_does_not_take_the_place_of_a_pipe_or_a_device(guest, tmp_path):
    (tmp_path / "file").write_text("content")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(GuestFileError, match="is no file"):
        copying.put(guest, tmp_path / "file", str(tmp_path / "pipe"), 30)
    with pytest.raises(GuestFileError, match="is no file here"):
        copying.get(guest, str(tmp_path / "file"), tmp_path / "pipe", 30)
    assert (tmp_path / "pipe").is_fifo()


def test_a_full_disk_in_the_guest_says_that_part_may_be_there(tmp_path):
    (tmp_path / "file").write_text("content")
    host = HostShell(path=tmp_path)
    (tmp_path / "tar").write_text("#!/bin/sh\necho 'tar: No space left on device' >&2; exit 2\n")
    (tmp_path / "tar").chmod(0o755)
    with pytest.raises(GuestFileError, match=r"No space left on device; part of it may be there"):
        copying.put(host, tmp_path / "file", str(tmp_path / "in"), 30)


def test_what_could_not_even_be_made_here_is_not_said_to_be_there(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("content")
    opened = os.open

    def read_only(path, flags, *words, **keywords):
        if flags & os.O_CREAT and os.fspath(path).endswith("out"):
            raise OSError(30, "Read-only file system")
        return opened(path, flags, *words, **keywords)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(GuestFileError, match="out: Read-only file system; see what is there"):
        get(tmp_path / "file", tmp_path / "out")


def test_a_full_disk_here_says_that_part_is_there(tmp_path, monkeypatch):
    lay(tmp_path / "source", {b"a": b"x", b"b": b"y"})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fchmod", full)
    with pytest.raises(GuestFileError, match=r"No space left on device; part of it is in .*out"):
        copying.get(HostShell(), str(tmp_path / "source"), tmp_path / "out", 30)


def test_each_command_of_a_copy_may_go_on_for_any_time_and_rest_for_no_longer(tmp_path):
    class Slow(HostShell):
        limits = ()

        def execute(self, command, *, timeout, input, sink, per_progress):  # noqa: A002
            self.limits += ((timeout, per_progress),)
            if len(self.limits) == 2:
                return None, b"", b""
            return super().execute(command, timeout=timeout, input=input, sink=sink)

    slow = Slow()
    (tmp_path / "file").touch()
    with pytest.raises(CopyTimeoutError, match=r"vm\.put .*part may.* no further .*30 s") as caught:
        copying.put(slow, tmp_path / "file", str(tmp_path / "in"), 30)
    assert slow.limits == ((30, True), (30, True)) and caught.value.timeout == 30


@pytest.mark.parametrize("language", ["C", "de_DE.UTF-8"])
def test_the_users_own_settings_change_nothing(tmp_path, monkeypatch, language):
    lay(tmp_path / "source", {b"x": b"y"})
    monkeypatch.setenv("TAR_OPTIONS", "--exclude=x")
    monkeypatch.setenv("CDPATH", "/usr")
    monkeypatch.setenv("LC_ALL", language)
    put(tmp_path / "source", tmp_path / "in")
    get(tmp_path / "source", tmp_path / "out")
    assert everything_below(tmp_path / "in") == everything_below(tmp_path / "out") == ["x"]


def test_a_target_that_ends_in_a_slash_is_a_folder_here_too(tmp_path):
    (tmp_path / "file").write_text("content")
    assert get(tmp_path / "file", f"{tmp_path}/new/deep/") == tmp_path / "new" / "deep" / "file"
    assert get(tmp_path / "file", tmp_path / "other" / "name") == tmp_path / "other" / "name"


def test_a_target_that_no_file_system_takes_is_told_as_such(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(GuestFileError, match="File name too long"):
        get(tmp_path / "file", tmp_path / ("x" * 300))
    with pytest.raises(GuestFileError, match="File name too long"):
        put(tmp_path / "file", tmp_path / ("x" * 300) / "y")
    with pytest.raises(GuestFileError, match=r"written to .*below: File exists"):
        get(tmp_path / "file", tmp_path / "file" / "below")


def test_what_a_guest_calls_its_files_is_escaped(out):
    folder = (entry("app", tarfile.DIRTYPE, mode=0o755), b"")
    evil = "app/\x1b[31mred"
    with pytest.warns(GuestFileWarning) as told:
        out(folder, (entry(evil, tarfile.FIFOTYPE), b""))
    texts = [str(told[0].message)]
    for members in (
        [(entry(f"{evil}/../x"), b"")],
        [folder, (entry(evil), b""), (entry(f"{evil}/x"), b"")],
        [folder, (entry(evil, tarfile.DIRTYPE), b""), (entry(evil), b"")],
        [(entry("\x1b[31m"), b"")],
    ):
        with pytest.raises(GuestFileError) as caught:
            out(*members)
        texts.append(str(caught.value))
    assert all("\\x1b[31m" in text and "\x1b" not in text for text in texts), texts


def test_a_clock_behind_the_hosts_is_no_warning(tmp_path):
    (tmp_path / "file").touch()
    os.utime(tmp_path / "file", (4_000_000_000, 4_000_000_000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        put(tmp_path / "file", tmp_path / "in")
        get(tmp_path / "file", tmp_path / "out")
