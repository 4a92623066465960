"""Files and folders in and out, with the host's own shells and tars in the guest's place."""

import contextlib
import io
import os
import socket
import stat
import tarfile
import warnings

import pytest
from host_shell import HostShell, busybox_shell
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_vmports.errors import CommandTimeoutError, GuestFileError, GuestFileWarning
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


def test_a_folder_comes_out_whole_with_links_followed(files, tmp_path):
    (files / "link").symlink_to("deep/run")
    got = get(files, tmp_path / "copy")
    assert sorted(str(p.relative_to(got)) for p in got.rglob("*")) == [
        "deep", "deep/run", "link", "odd 'name'",
    ]  # fmt: skip
    assert not (got / "link").is_symlink()


def test_what_is_put_belongs_to_root_in_the_guest(files, tmp_path, monkeypatch):
    of_somebody = tarfile.TarFile.gettarinfo

    def gettarinfo(*words, **keywords):
        found = of_somebody(*words, **keywords)
        found.uid, found.gid, found.uname, found.gname = 1234, 1234, "somebody", "people"
        return found

    monkeypatch.setattr(tarfile.TarFile, "gettarinfo", gettarinfo)
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

    def execute(self, command, *, timeout, input):  # noqa: A002
        return 0, self.answer, b""


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


def test_a_link_in_an_archive_is_not_made_and_so_leads_nowhere(out, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    link = entry("app/link", tarfile.SYMTYPE, linkname=str(outside))
    place = out((entry("app", tarfile.DIRTYPE, mode=0o755), b""), (link, b""))
    assert everything_below(place) == []
    with pytest.raises(OSError, match="link"):
        out((entry("app", tarfile.DIRTYPE, mode=0o755), b""), (link, b""),
            (entry("app/link/evil"), b"evil"))  # fmt: skip
    assert everything_below(outside) == []


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_neither_devices_nor_pipes_are_made(out, kind):
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


def test_a_second_name_of_a_file_is_a_copy_and_not_the_same_file(out):
    place = out(
        (entry("app", tarfile.DIRTYPE, mode=0o755), b""),
        (entry("app/one", mode=0o644), b"content"),
        (entry("app/two", tarfile.LNKTYPE, linkname="app/one", mode=0o644), b""),
    )
    assert (place / "two").read_bytes() == b"content"
    assert (place / "one").stat().st_ino != (place / "two").stat().st_ino
