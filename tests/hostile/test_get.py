"""What a guest sends for `vm.get`: it becomes files below the target, or an error, and no more."""

from __future__ import annotations

import bz2
import contextlib
import errno
import gzip
import itertools
import lzma
import os
import resource
import stat
import tarfile
import tracemalloc
from types import SimpleNamespace

import pytest
from folded import folded
from tars import END, Guest, extended, file, folder, head, patched, record
from trees import lay, picture

from pytest_vmports.errors import (
    CommandTimeoutError,
    CopyTimeoutError,
    GuestFileError,
    GuestFileWarning,
    GuestSaidError,
)
from pytest_vmports.system import patience
from pytest_vmports.vm.inside import copying, unpack

MIB = 1 << 20


@pytest.fixture
def out(tmp_path):
    """Return the folder that is copied into; it lies in one that holds nothing else."""
    folder_ = tmp_path / "host" / "deep"
    folder_.mkdir(parents=True)
    return folder_


def get(guest, out, **words):
    return copying.get(guest, "/srv/app", out, words.pop("timeout", 60), **words)


def below(folder_):
    return sorted(str(path.relative_to(folder_)) for path in folder_.rglob("*"))


# --- what a few bytes could become ---------------------------------------------------------------


@pytest.mark.parametrize(
    "pack", [gzip.compress, bz2.compress, lzma.compress], ids=lambda f: f.__module__
)
def test_a_compressed_archive_is_refused_and_nothing_is_unpacked(out, pack):
    with pytest.raises(GuestFileError, match=r"no archive of it: .*it is compressed \("):
        get(Guest(pack(file(content=bytes(4 * MIB)) + END)), out)
    assert below(out) == []


HOLES = {
    "old GNU": patched(head(size=512, kind=b"S"), 386, b"%011o\0%011o\0" % (1 << 31, 0)),
    "PAX 0.0": extended({"GNU.sparse.size": str(1 << 31), "GNU.sparse.numblocks": "0"}) + file(),
    "PAX 0.1": extended({"GNU.sparse.map": "0,0", "GNU.sparse.size": str(1 << 31)}) + file(),
    "PAX 1.0": extended(
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 31)}
    )
    + file(content=b"1\n0\n1\n" + bytes(512)),
}


@pytest.mark.parametrize("kind", HOLES)
def test_a_file_with_holes_is_refused_whoever_thought_of_them(out, kind):
    with pytest.raises(GuestFileError, match=r"no archive of it: .*'app' has holes.*bsdtar.*cp -"):
        get(Guest(HOLES[kind], END), out)
    assert below(out) == []


@pytest.mark.parametrize("key", ["GNU.sparse.{}", "SCHILY.xattr.{}"])
def test_headers_without_an_entry_fill_no_memory(out, key):
    guest = Guest()
    lines = (record(key.format(number), "x" * 99) for number in itertools.count())
    header = (extended(b"".join(itertools.islice(lines, 400))) for _ in range(40))
    guest.pieces = itertools.chain(header, [file(), END])
    tracemalloc.start()
    try:
        with contextlib.suppress(GuestFileError):  # as that it has holes
            get(guest, out)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 2 * MIB


@pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"X", b"g"])
@pytest.mark.parametrize("size", [2 * MIB, 1 << 31, (1 << 33) - 1])
def test_a_header_of_any_length_is_refused_before_it_is_read(out, kind, size):
    guest = Guest()
    guest.pieces = itertools.chain([head("long", kind, size)], itertools.repeat(b"x" * 65536, 99))
    with pytest.raises(GuestFileError, match=f"no archive of it: .*a header of {size} bytes"):
        get(guest, out)
    assert guest.sent <= 65536


def test_what_comes_after_the_end_does_not_go_on(out):
    guest = Guest()
    guest.pieces = itertools.chain([file(), END], itertools.repeat(bytes(65536), 99))
    with pytest.raises(GuestFileError, match=r"goes on after its end; part of it is in "):
        get(guest, out)
    assert guest.sent <= 2 * MIB
    assert (out / "app").read_bytes() == b"content"


def test_a_large_file_passes_through_little_memory(out):
    size = 64 * MIB
    pieces = [head(size=size), *[b"\xa5" * 65536] * (size // 65536), END]
    tracemalloc.start()
    try:
        place = get(Guest(*pieces), out)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert place.stat().st_size == size
    assert most < 2 * MIB


def test_a_header_of_nothing_but_short_lines_is_one_as_others(out):
    lines = b"5 a=\n" * (MIB // 5)
    place = get(Guest(extended(lines), file(), END), out)
    assert place.read_bytes() == b"content"


# --- a limit -------------------------------------------------------------------------------------


def test_more_than_the_limit_is_refused_before_it_is_written(out):
    (out / "app").write_text("what was there")
    for size in (MIB + 1, 1 << 40, (1 << 63) - 1):
        with pytest.raises(GuestFileError) as caught:
            get(Guest(head(size=size)), out, limit=MIB)
        text = str(caught.value)
        assert "/srv/app from the guest is too large: the most that is copied is 1 MiB" in text
        assert "nothing of it was written" in text
        assert "larger max_size, or set copy_limit" in text
    assert (out / "app").read_text() == "what was there"
    assert get(Guest(file(content=bytes(MIB)), END), out, limit=MIB).stat().st_size == MIB


def test_a_size_in_a_pax_header_counts_too(out):
    with pytest.raises(GuestFileError, match="too large"):
        get(Guest(extended({"size": str(1 << 50)}), head(size=0)), out)


def test_all_files_together_count_and_what_is_there_by_then_is_named(out):
    files = [file(f"app/{number}", bytes(MIB)) for number in range(4)]
    with pytest.raises(GuestFileError, match=r"1048577\d* bytes; part of it is in .*app; give"):
        get(Guest(folder(), *files, END), out, limit=MIB + 1)
    assert below(out) == ["app", "app/0"]


ENDLESS = {
    "files": lambda n: file(f"app/{n}", b""),
    "folders": lambda n: folder(f"app/{n}"),
    "links": lambda n: head(f"app/{n}", tarfile.SYMTYPE, linkname="/etc/passwd"),
    "second names": lambda n: head(f"app/{n}", tarfile.LNKTYPE, linkname="app/first"),
    "pipes": lambda n: head(f"app/{n}", tarfile.FIFOTYPE),
    "the same": lambda _: file("app/one", b""),
    "folders that nobody named": lambda n: file(f"app/{n}/x", b""),
    "what is of no known kind": lambda n: head(f"app/{n}", b"~"),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_entries_without_end_come_to_an_end(out, monkeypatch, kind):
    monkeypatch.setattr(unpack, "_LEAST_COUNT", 9)
    guest = Guest()
    start = [folder(), file("app/first", b"")]
    guest.pieces = itertools.chain(start, map(ENDLESS[kind], range(3000)))
    with pytest.raises(GuestFileError, match=r"too many files for a limit of 1 MiB; part of it"):
        get(guest, out, limit=MIB)
    assert guest.sent < MIB
    assert len(below(out)) < 300


def test_long_names_count_more(out):
    guest = Guest()
    deep = "/".join(["d" * 200] * 15)
    guest.pieces = (file(f"app/{deep}/{number}", b"") for number in range(3000))
    with pytest.raises(GuestFileError, match="too many files"):
        get(guest, out, limit=MIB)
    assert guest.sent < MIB


def test_a_limit_does_not_stand_in_the_way_of_many_small_files(out):
    files = [file(f"app/{number}", b"x") for number in range(900)]
    assert len(below(get(Guest(folder(), *files, END), out, limit=1000))) == 900


def test_second_names_that_become_copies_count(out, monkeypatch):
    """Faked: a file system that has no second names, or no more of them for this file."""

    def no_more(*_words, **_more):
        raise OSError(errno.EMLINK, "Too many links")

    monkeypatch.setattr(os, "link", no_more)
    twins = [head(f"app/{number}", tarfile.LNKTYPE, linkname="app/one") for number in range(99)]
    with pytest.raises(GuestFileError, match=r"the most that is copied is 3 MiB; part of it is in"):
        get(Guest(folder(), file("app/one", b"x" * MIB), *twins, END), out, limit=3 * MIB)
    assert below(out) == ["app", "app/0", "app/1", "app/one"]


# --- time ----------------------------------------------------------------------------------------


def test_the_timeout_holds_while_a_file_does_not_go_on(out):
    guest = Guest()
    guest.pieces = itertools.chain([head(size=1 << 40)], itertools.repeat(b"", 5_000_000))
    with pytest.raises(CommandTimeoutError, match=r"vm\.get of /srv/app from the guest.*0\.2 s"):
        get(guest, out, timeout=0.2, limit=1 << 41)
    assert below(out) == []  # half a file is none


@folded("entry", [True, False])
def test_what_goes_on_has_no_limit_of_time_and_what_only_talks_has(out, monkeypatch, entry):
    """A clock that goes on by a second whenever it is looked at; the limit is three."""
    seconds = itertools.count()
    monkeypatch.setattr(patience, "clock", SimpleNamespace(now=lambda: float(next(seconds))))
    pieces = [file(f"app/{n}") if entry else extended({"a": "b"}) for n in range(100)]
    guest = Guest(folder(), *pieces, END)
    if entry:
        assert len(os.listdir(get(guest, out, timeout=3))) == 100
    else:
        with pytest.raises(CopyTimeoutError, match="no further"):
            get(guest, out, timeout=3)


def test_the_timeout_holds_for_headers_and_errors_without_end(out):
    often = 500_000
    for pieces, errors in ((extended({"a": "b"}), None), (b"", b"")):
        guest = Guest()
        guest.pieces = itertools.repeat(pieces, often)
        guest.errors = () if errors is None else itertools.repeat(errors, often)
        with pytest.raises(CommandTimeoutError):
            get(guest, out, timeout=0.2)
    assert below(out) == []


def test_what_is_there_when_the_time_is_over_is_named(out):
    start = [folder(), file("app/whole"), head("app/half", size=1 << 40), bytes(65536)]
    guest = Guest(*start, code=None)
    with pytest.raises(CopyTimeoutError, match=r"; part of it is in .*app went on no further"):
        get(guest, out, timeout=0.5, limit=1 << 41)
    assert below(out) == ["app", "app/whole"]


# --- words ---------------------------------------------------------------------------------------


def test_complaints_without_end_are_not_collected(out, tmp_path):
    (tmp_path / "file").touch()
    for way in (
        lambda guest: get(guest, out),
        lambda guest: copying.put(guest, tmp_path / "file", "/srv", 60),
    ):
        said = []
        guest = Guest(errors=(said.append(1) or b"x" * 65536 for _ in range(200)))
        with pytest.raises(GuestSaidError, match=r"more than 4 MiB .*\nIt said: .*xxx"):
            way(guest)
        assert len(said) <= 65


def test_answers_without_end_are_not_collected_by_put(tmp_path):
    (tmp_path / "file").touch()
    guest = Guest()
    guest.pieces = itertools.repeat(b"into\n" * 1000, 3000)
    with pytest.raises(GuestSaidError, match="more than 4 MiB"):
        copying.put(guest, tmp_path / "file", "/srv", 60)


def test_names_of_what_is_left_out_fill_no_report(out):
    names = ["app/" + "/".join(["\x1b" * 250] * 12) + f"/{number}" for number in range(500)]
    guest = Guest(folder(), *[head(name, tarfile.FIFOTYPE) for name in names], END)
    guest.errors = [b"tar: " + b"\x1b" * 100_000 + b": socket ignored\n"] * 30
    guest.code = 1
    with pytest.warns(GuestFileWarning, match="and 510 more") as told:
        get(guest, out)
    assert len(str(told[0].message)) < 25_000
    with pytest.warns(GuestFileWarning) as told:
        get(Guest(folder(), head("app/x\n::add-mask::e", tarfile.FIFOTYPE), END), out)
    assert str(told[0].message).endswith("\n  app/x\\n::add-mask::e")
    evil = "x\n::add-mask::e"
    for members in (
        [file(f"app/{evil}/../y")],
        [folder(), head(f"app/{evil}", tarfile.SYMTYPE, linkname="y"), file(f"app/{evil}/z")],
        [folder(), folder(f"app/{evil}"), file(f"app/{evil}")],
        [head(f"app/{evil}", b"S")],
        [file(evil)],
        [extended({"path": f"app/{evil}\0"}), file()],
    ):
        with pytest.raises(GuestFileError) as caught:
            get(Guest(*members, END), out)
        assert "\n::" not in str(caught.value) and "::add-mask::e" in str(caught.value)


def test_what_a_failing_tar_says_is_told_with_what_is_there(out):
    guest = Guest(folder(), file("app/one"), errors=[b"tar: \x1b[2Jthe disk is gone\n"], code=2)
    with pytest.raises(GuestFileError, match=r"\\x1b\[2Jthe disk is gone; part of it is in .*app"):
        get(guest, out)
    assert below(out) == ["app", "app/one"]


# --- facts that no file can have -----------------------------------------------------------------


def number(value, width=12):
    """Return a number as GNU's tar writes large ones and those below 0."""
    return bytes([0x80 if value >= 0 else 0xFF]) + (value % (1 << 8 * (width - 1))).to_bytes(
        width - 1, "big"
    )


MODE, UID, GID, SIZE, MTIME = 100, 108, 116, 124, 136
ODD_TIMES = {
    "year 10^12": patched(file(), MTIME, number(31_556_952 * 10**12)),
    "the largest": patched(file(), MTIME, number((1 << 87) - 1)),
    "the least": patched(file(), MTIME, number(-(1 << 87))),
    "PAX year 10^300": extended({"mtime": "9" * 300}) + file(),
    "PAX below 0": extended({"mtime": "-" + "9" * 300}) + file(),
}


@pytest.mark.parametrize("kind", ODD_TIMES)
def test_a_time_that_no_clock_shows_is_the_nearest(out, kind):
    assert get(Guest(ODD_TIMES[kind], END), out).read_bytes() == b"content"


def test_owners_and_modes_of_any_size_harm_nobody(out):
    block = file()
    for at, width in ((MODE, 8), (UID, 8), (GID, 8)):
        for value in ((1 << 55) - 1, -1, 0o7777):
            block = patched(file(), at, number(value, width))
            place = get(Guest(block, END), out)
            seen = place.stat()
            assert (seen.st_uid, seen.st_gid) == (os.geteuid(), os.getegid())
            assert not stat.S_IMODE(seen.st_mode) & 0o7000


@pytest.mark.parametrize("bits", [0o7777, (1 << 55) - 1])
def test_a_folder_is_not_of_its_group_for_what_is_put_into_it(out, bits):
    place = get(Guest(patched(folder(), MODE, number(bits, 8)), END), out)
    assert stat.S_IMODE(place.stat().st_mode) == 0o1777


NO_ARCHIVES = {
    "size below 0": patched(file(), SIZE, number(-1)),
    "size far below 0": patched(file(), SIZE, number(-(1 << 80))),
    "size with a sign": patched(file(), SIZE, b"-0000000777\0"),
    "PAX size below 0": extended({"size": "-5"}) + file(),
    "PAX size of blanks": extended({"size": " 7"}) + file(),
    "PAX size of other digits": extended({"size": "٧"}) + file(),
    "PAX size of 5000 digits": extended({"size": "9" * 5000}) + file(),
    "PAX size of no digits": extended({"size": ""}) + file(),
    "PAX time nan": extended({"mtime": "nan"}) + file(),
    "PAX time inf": extended({"mtime": "inf"}) + file(),
    "PAX time 1e999": extended({"mtime": "-1e999"}) + file(),
    "PAX time of words": extended({"mtime": "noon"}) + file(),
    "PAX length 0": extended(b"0 path=app/x\n") + file(),
    "PAX length 1": extended(b"1 path=app/x\n") + file(),
    "PAX length too long": extended(b"99 path=app/x\n") + file(),
    "PAX length below 0": extended(b"-1 path=app/x\n") + file(),
    "PAX length of 5000 digits": extended(b"9" * 5000) + file(),
    "PAX without a key": extended(b"6 abc\n") + file(),
    "PAX without an end": extended(b"9 path=app") + file(),
    "PAX name with NUL": extended({"path": "app\0x"}) + file(),
    "PAX target with NUL": extended({"linkpath": "a\0b"})
    + folder()
    + head("app/l", tarfile.SYMTYPE),
    "PAX name empty": extended({"path": ""}) + file(),
    "PAX name climbs": extended({"path": "../app"}) + file(),
    "PAX name absolute": extended({"path": "/app"}) + file(),
    "long name empty": head("long", b"L", 1) + bytes(512) + file(),
    "long name absolute": head("long", b"L", 5) + b"/app\0".ljust(512, b"\0") + file(),
    "no name": file(""),
    "a dot": file("."),
    "two dots": file(".."),
    "three dots": file("..."),
    "another name": file("ap"),
    "link to nothing at all": folder() + head("app/l", tarfile.SYMTYPE, linkname=""),
    "second name of another place": folder()
    + head("app/l", tarfile.LNKTYPE, linkname="/etc/passwd"),
    "second name of what comes": head("app/l", tarfile.LNKTYPE, linkname="app/x") + file("app/x"),
    "second name of itself": folder() + head("app/l", tarfile.LNKTYPE, linkname="app/l"),
    "second name of a folder": folder() + head("app/l", tarfile.LNKTYPE, linkname="app"),
    "the whole is a pipe": head("app", tarfile.FIFOTYPE),
    "the whole is a device": head("app", tarfile.CHRTYPE, devmajor=1, devminor=5),
    "the whole is a link": head("app", tarfile.SYMTYPE, linkname="/etc/passwd"),
    "the whole is a second name": head("app", tarfile.LNKTYPE, linkname="app"),
    "a broken sum": file()[:148] + b"0000000\0" + file()[156:],
    "nothing": b"",
}


@pytest.mark.parametrize("cut", [1, 300, 511, 513, 700, 1024, 1400])
def test_an_archive_that_is_cut_is_not_taken_for_the_whole(out, cut):
    with pytest.raises(GuestFileError, match="ends too early"):
        get(Guest((folder() + file("app/x", b"x" * 600) + END)[:cut]), out)
    assert [name for name in below(out) if name != "app"] == []


@folded("kind", NO_ARCHIVES)
def test_what_cannot_be_is_told_as_the_guests_doing_and_leaves_the_host_alone(tmp_path, kind):
    out = tmp_path / "host" / "deep" / str(abs(hash(kind)))
    out.mkdir(parents=True)
    with pytest.raises(GuestFileError, match=r"no archive of it|leads out of app"):
        get(Guest(NO_ARCHIVES[kind], END), out)
    files = [name for name in below(out) if (out / name).is_file()]
    assert files == []


# --- names and places ----------------------------------------------------------------------------


def test_a_path_of_ten_thousand_levels_ends_where_the_hosts_do(out):
    for deep in ("/".join(["d"] * 10_000), "/".join(["d" * 255] * 100), "x" * 5000, "x" * 256):
        name = f"app/{deep}"
        long = (
            head("long", b"L", len(name) + 1)
            + (name.encode() + b"\0").ljust(-(-len(name) // 512) * 512 + 512, b"\0")[
                : -(-(len(name) + 1) // 512) * 512
            ]
        )
        for header in (long, extended({"path": name})):
            with pytest.raises(GuestFileError, match="File name too long; "):
                get(Guest(folder(), header, file(), END), out)
    names = [f"app/{'d/' * level}" for level in range(1, 300)]
    heads = [extended({"path": name}) + folder() for name in names]
    place = get(Guest(folder(), *heads, END), out)
    assert len(below(place)) == 299


def test_a_name_of_any_bytes_is_that_name(out):
    odd = ["\udcff\udcfe", "ä", "a\nb", "x" * 255, "\u202eexe.txt", "-rf", "~", "*"]
    for header in (lambda n: file(f"app/{n}"), lambda n: extended({"path": f"app/{n}"}) + file()):
        short = [name for name in odd if len(name) < 90]
        place = get(Guest(folder(), *map(header, short), END), out)
        assert {os.fsencode(name) for name in os.listdir(place)} >= {
            name.encode("utf-8", "surrogateescape") for name in short
        }


@pytest.mark.parametrize("first", ["file", "link", "second", "folder"])
@pytest.mark.parametrize("then", ["file", "link", "second", "folder"])
def test_one_name_twice_leads_nowhere_else(out, tmp_path, first, then):
    precious = tmp_path / "precious"
    lay(precious, {b"x": b"mine"})
    before = picture(precious)
    makes = {
        "file": lambda name: file(name, b"evil"),
        "link": lambda name: head(name, tarfile.SYMTYPE, linkname=str(precious)),
        "second": lambda name: head(name, tarfile.LNKTYPE, linkname="app/first"),
        "folder": folder,
    }
    start = folder() + file("app/first", b"first")
    through = (
        file("app/n/x", b"evil"),
        head("app/n/x", tarfile.SYMTYPE, linkname="evil"),
        folder("app/n/x"),
    )
    for more in (b"", *through):
        for after in (b"", file("app/first", b"evil"), file("app/n", b"evil")):
            target = out / str(len(os.listdir(out)))
            target.mkdir()
            twice = makes[first]("app/n") + makes[then]("app/n")
            with contextlib.suppress(GuestFileError):
                get(Guest(start, twice, more, after, END), target)
            assert picture(precious) == before
    assert sorted(os.listdir(tmp_path)) == ["host", "precious"]


def test_what_is_written_to_one_name_is_not_written_to_its_twin(out):
    second = head("app/two", tarfile.LNKTYPE, linkname="app/one")
    place = get(Guest(folder(), file("app/one", b"1"), second, file("app/one", b"new"), END), out)
    assert [(place / name).read_bytes() for name in ("one", "two")] == [b"new", b"1"]


def test_a_folder_that_nobody_may_enter_is_filled_all_the_same(out):
    inner = [folder("app/in", mode=0), file("app/in/x", mode=0), folder("app/in/deep", mode=0o500)]
    place = get(Guest(folder(mode=0o111), *inner, file("app/in/deep/y"), END), out)
    modes = [
        stat.S_IMODE((place / name).lstat().st_mode) for name in (".", "in", "in/x", "in/deep")
    ]
    assert modes == [0o111, 0, 0, 0o500]


SOURCES = [
    "/", "//", "/.", "/..", "/../", "/../.", "..", "../", "../..", ".", "./", "./.", "/x/..",
    "/x/../", "/x/../.", "/x/./..", "/x//..//", "x/..", "../x/..", "/x/../..",
]  # fmt: skip


@folded("source", SOURCES)
def test_a_source_that_names_nothing_is_refused_before_the_guest_is_asked(out, source):
    guest = Guest(file("x"), file(".."), file("."), END)
    with pytest.raises(GuestFileError, match="names no file; name a file or folder"):
        copying.get(guest, source, out, 60)
    assert guest.sent == 0
    assert below(out.parent) == ["deep"]


@folded("source", ["/x", "/x/", "/x//", "/x/.", "/x/./", "/../x", "../x", "x/../x", "/..x/x"])
def test_what_is_copied_lies_in_its_target_whatever_it_was_called(tmp_path, source):
    out = tmp_path / "host" / str(abs(hash(source))) / "deep"
    out.mkdir(parents=True)
    copying.get(Guest(folder("x"), file("x/file"), END), source, out, 60)
    assert below(out.parent) in (["deep", "deep/file"], ["deep", "deep/x", "deep/x/file"])


# --- the host ------------------------------------------------------------------------------------


def test_no_link_of_the_host_is_followed_below_the_target(out, tmp_path):
    precious = tmp_path / "precious"
    lay(precious, {b"x": b"mine"})
    before = picture(precious)
    for there in ("app", "app/in"):
        (out / there).parent.mkdir(exist_ok=True)
        (out / there).symlink_to(precious)
        with pytest.raises(GuestFileError, match="is no folder here, but a link"):
            get(Guest(folder(), folder("app/in"), file("app/in/x"), END), out)
        with pytest.raises(GuestFileError, match="is no folder here, but a link"):
            get(Guest(file("app/in/x"), END), out)
        (out / there).unlink()
    assert picture(precious) == before


def test_a_disk_that_is_full_in_the_middle_leaves_no_half_file(out):
    """Faked: a limit on a file's size, which fails in the same place as a full disk."""
    allowed, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, most))
    try:
        with pytest.raises(GuestFileError) as caught:
            get(Guest(folder(), file("app/one"), file("app/two", b"x" * 2 * MIB), END), out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (allowed, most))
    assert os.strerror(errno.EFBIG) in str(caught.value)
    assert "part of it is in" in str(caught.value) and "make room there" in str(caught.value)
    assert below(out) == ["app", "app/one"]


def test_a_guest_that_dies_in_the_middle_leaves_no_half_file(out):
    class Dies(Guest):
        def execute(self, *words, **more):
            super().execute(*words, **more)
            raise OSError(errno.ECONNRESET, "QEMU hung up")

    with pytest.raises(OSError, match="hung up"):
        get(Dies(folder(), file("app/one"), head("app/two", size=9999), b"half of it"), out)
    assert below(out) == ["app", "app/one"]


@folded("source", ["/", "//", "/.", "/./", "/..", "/../..", "/tmp/.."])
def test_all_of_the_host_is_never_put(source):
    """Its root has no name to be called by in the guest, nor is what is in it anybody's files."""
    guest = Guest()
    with pytest.raises(GuestFileError, match="has no name; name a folder below it"):
        copying.put(guest, source, "/x", 60)
    assert guest.asked == 0
