"""Links that a guest sent with an earlier copy: no later one goes through them elsewhere."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
from types import SimpleNamespace

import pytest
from folded import folded
from tars import END, Guest, extended, file, folder, head
from trees import lay, picture

from pytest_vmports.errors import GuestFileError
from pytest_vmports.vm import screen
from pytest_vmports.vm.inside import copying

REFUSED = r"leads through .*, a link that came out of a guest; look where it leads"


def link(name, target):
    return head(name, tarfile.SYMTYPE, linkname=target)


@pytest.fixture
def precious(tmp_path):
    """Return a folder of the host's with things in it."""
    lay(tmp_path / "precious", {b"key": b"mine", b"deep": {b"key": b"mine"}})
    return tmp_path / "precious"


@pytest.fixture
def out(tmp_path, precious):
    """Return a folder with what a guest has sent: links to the host's things, and other ones."""
    (tmp_path / "out").mkdir()
    sent = [
        folder("app"), folder("app/in"), file("app/in/file"), link("app/absolute", str(precious)),
        link("app/key", str(precious / "key")), link("app/climbs", "../precious"),
        link("app/in/far", "../../precious/deep"), link("app/first", "in/far"),
        link("app/new", str(precious / "new")), link("app/current", "in"),
        link("app/dotted", "in/../../precious"), extended({"mtime": "1e30"}),
        link("app/late", str(precious)), extended({"mtime": "-1e30"}),
        link("app/early", str(precious)),
        head("app/twin", tarfile.LNKTYPE, linkname="app/absolute"),
    ]  # fmt: skip
    copying.get(Guest(*sent, END), "/app/.", tmp_path / "out", 60)
    return tmp_path / "out"


# Below the folder, what leads through one of its links.
WAYS = [
    "absolute", "absolute/", "absolute/.", "absolute/x", "absolute/deep", "absolute/deep/x/y",
    "climbs", "climbs/x", "in/far", "in/far/x", "first", "first/x", "new/x", "new/", "dotted",
    "dotted/x", "late/x", "early/x", "twin", "twin/x", "./in//../absolute/x", "current/far",
    "current/../absolute",
]  # fmt: skip


@folded("way", WAYS)
def test_a_copy_to_one_writes_nothing_and_names_it(out, precious, tmp_path, way):
    before = picture(precious), picture(out)
    for sent, name in ((folder("x") + file("x/key", b"evil"), "x"), (file("key", b"evil"), "key")):
        for source in (f"/{name}", f"/{name}/."):
            with pytest.raises(GuestFileError, match=REFUSED):
                copying.get(Guest(sent, END), source, f"{out}/{way}", 60)
    assert (picture(precious), picture(out)) == before
    assert sorted(os.listdir(tmp_path)) == ["out", "precious"]


@folded("way", [*WAYS, "key", "absolute/key", "first/key"])
def test_a_copy_of_one_gives_the_guest_nothing(out, way):
    guest = Guest()
    with pytest.raises(GuestFileError, match=REFUSED):
        copying.put(guest, f"{out}/{way}", "/srv/", 60)
    assert guest.asked == 0


def test_a_picture_is_not_written_through_one(out, precious):
    machine = SimpleNamespace(plan=SimpleNamespace(hardware=SimpleNamespace(display=True)))
    for way in ("key", "absolute/picture.png"):
        with pytest.raises(GuestFileError, match=REFUSED):
            screen.screenshot(machine, out / way)
    assert sorted(os.listdir(precious)) == ["deep", "key"]


def test_it_is_known_wherever_it_was_moved_or_copied_to(out, tmp_path, monkeypatch):
    shutil.copytree(out, tmp_path / "copy", symlinks=True)
    shutil.move(out, tmp_path / "moved")
    (tmp_path / "mine").symlink_to("moved")
    monkeypatch.chdir(tmp_path)
    for way in ("copy/absolute", "moved/absolute/x", "mine/absolute", str(tmp_path / "mine/first")):
        with pytest.raises(GuestFileError, match=REFUSED):
            copying.get(Guest(file("x"), END), "/x", way, 60)


def test_a_name_of_the_guests_begins_no_line(tmp_path):
    evil = "x\n::add-mask::e"
    copying.get(Guest(folder("app"), link(f"app/{evil}", "/"), END), "/app", tmp_path, 60)
    with pytest.raises(GuestFileError, match=REFUSED) as caught:
        copying.get(Guest(file("x"), END), "/x", tmp_path / "app" / evil, 60)
    assert "\n::" not in str(caught.value)


def test_links_of_ones_own_and_those_that_stay_in_their_folder_are_followed(out, tmp_path):
    (tmp_path / "mine").symlink_to(out / "in")
    for way in ("mine", "mine/new", "out/current", "out/current/other"):
        place = copying.get(Guest(file("x", b"followed"), END), "/x", tmp_path / way, 60)
        assert place.read_bytes() == b"followed"
    assert sorted(os.listdir(out / "in")) == ["far", "file", "new", "other", "x"]
    guest = Guest()
    copying.put(guest, out / "current" / "file", "/srv/", 60)
    assert guest.asked > 0
    for loop in ("a", "b"):
        (tmp_path / loop).symlink_to("b" if loop == "a" else "a")
    with pytest.raises(GuestFileError, match="could not be written"):
        copying.get(Guest(file("x"), END), "/x", tmp_path / "a" / "x", 60)


@pytest.mark.parametrize(
    ("was", "sent", "becomes"),
    [
        (0o700, 0o777, 0o700), (0o755, 0o777, 0o755), (0o755, 0o700, 0o700), (0o755, 0, 0o700),
        (0o1777, 0o777, 0o1777), (0o1777, 0o755, 0o1755), (0o2770, 0o777, 0o2770),
        (0o500, 0o777, 0o500), (0o700, (1 << 20) - 1, 0o700),
    ],
)  # fmt: skip
def test_a_folder_that_was_there_is_opened_to_nobody_and_stays_its_owners(
    tmp_path, was, sent, becomes
):
    for name in ("a", "a/in"):
        (tmp_path / name).mkdir()
    for name in ("a/in", "a"):
        (tmp_path / name).chmod(was)
    archive = [folder(mode=sent), folder("app/in", mode=sent), file("app/in/x"), folder(mode=sent)]
    copying.get(Guest(*archive, END), "/app/.", tmp_path / "a", 60)
    modes = [stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in ("a", "a/in")]
    assert modes == [becomes, becomes]
    assert (tmp_path / "a" / "in" / "x").read_bytes() == b"content"


def test_a_folder_that_the_guest_names_twice_is_as_it_said_last(tmp_path):
    archive = [folder(mode=0o700), folder("app/in", mode=0o500), file("app/in/x")]
    again = [folder("app/in", mode=0o755), folder(mode=0o755)]
    place = copying.get(Guest(*archive, *again, END), "/app", tmp_path, 60)
    modes = [stat.S_IMODE(one.stat().st_mode) for one in (place, place / "in")]
    assert modes == [0o755, 0o755]
