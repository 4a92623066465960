"""What a guest is given from the host: each way in which a file cannot be read is told by name."""

import os
import socket
from pathlib import Path

import pytest

from pytest_vmports.errors import GuestNotFoundError, SettingError
from pytest_vmports.guests import host_files
from pytest_vmports.guests.guest import Guest
from pytest_vmports.guests.hopeless import refuse
from pytest_vmports.system.architecture import X86_64

ANNEX = ".git/annex/objects/xx/SHA256E-s12--ab.qcow2"


@pytest.fixture
def there(tmp_path, monkeypatch):
    """Return a folder that has one of each, and is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket")
    Path("dangling").symlink_to("nowhere")
    Path("annex.qcow2").symlink_to(ANNEX)
    Path("loop").symlink_to("loop")
    Path("folder").mkdir()
    Path("folder/file").write_text("x")
    Path("noble-cloudimg.img").write_text("x")
    Path("serve.sh").write_text("nc -lk -p 80 -e cat &\n")
    return tmp_path


# What is written; what is said of it; what is to be done.
WRONG = {
    "pipe": ("is not a file but a pipe", "name a readable file"),
    "socket": ("is not a file but a socket", "name a readable file"),
    "/dev/null": ("is not a file but a device", "name a readable file"),
    "dangling": ("is a link to nowhere, which does not exist", "name a readable file"),
    "annex.qcow2": (f"is a link to {ANNEX}, which does not exist", "git annex get /"),
    "loop": ("cannot be reached (Too many levels", "name a readable file"),
    "nobel-cloudimg.img": ("does not exist", "did you mean {there}/noble-cloudimg.img?"),
    "fodler/file": ("does not exist", "did you mean {there}/folder?"),
    "folder/none/at/all": ("does not exist", "its path leads to {there}/folder only"),
    "noble-cloudimg.img/x": ("does not exist", "its path leads to {there}/noble-cloudimg.img"),
    "~/nobel-cloudimg.img": ("does not exist", "did you mean {there}/noble-cloudimg.img?"),
    "https://example.org/a.qcow2": ("does not exist", "an address is not fetched"),
    "file:///a.qcow2": ("does not exist", "its path leads to {there} only"),
    "x" * 256: ("cannot be reached (File name too long)", "name a readable file"),
    "a/" * 2100: ("cannot be reached (File name too long)", "name a readable file"),
}
GIVEN = {
    "disk image": Guest.disk,
    "kernel": Guest.kernel,
    "initrd": lambda path: Guest.kernel("noble-cloudimg.img", path),
    "kernel of a disk": lambda path: Guest.disk("noble-cloudimg.img", kernel=path),
    "user_data": lambda path: Guest.disk("noble-cloudimg.img", user_data=path),
    "files": lambda path: Guest("g", files={path: "/x"}, prepared=False).digest(Path.cwd(), X86_64),
}


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("written", WRONG, ids=lambda written: written[:30])
def test_a_file_that_cannot_be_read_is_told_with_what_it_is_and_what_to_do(there, written, given):
    said, remedy = WRONG[written]
    for spelling in (written, Path(written)):
        if ":/" in written and spelling != written:
            continue  # a Path is no address
        with pytest.raises(GuestNotFoundError) as caught:
            GIVEN[given](spelling)
        assert said in caught.value.what
        assert remedy.format(there=there) in caught.value.remedy


@pytest.mark.parametrize("given", GIVEN)
def test_a_folder_is_none_of_them_but_of_files(there, given):
    if given == "files":
        GIVEN[given]("folder")
        return
    with pytest.raises(GuestNotFoundError, match="is not a file but a folder"):
        GIVEN[given]("folder")


@pytest.mark.parametrize("written", ["noble-cloudimg.img", "~/noble-cloudimg.img"])
def test_a_path_of_bytes_or_of_a_home_is_as_good(there, written):
    for spelling in (written, os.fsencode(written), Path(written)):
        assert Guest.disk(spelling).root_disk.path == there / "noble-cloudimg.img"
        assert GIVEN["files"](spelling)["added"] == GIVEN["files"](written)["added"]


@pytest.mark.parametrize("setup", ["serve.sh", "~/serve.sh", "./serve.sh", "../{}/serve.sh"])
def test_a_script_is_found_by_each_spelling_of_its_path(there, setup):
    written = setup.format(there.name)
    for spelling in (written, Path(written)):
        guest = Guest.alpine(setup=spelling)
        refuse(guest, (80,), 256, there)
        assert guest.digest(there, X86_64) == Guest.alpine(setup="serve.sh").digest(there, X86_64)


@pytest.mark.parametrize(
    ("setup", "said"),
    [
        ("~/sevre.sh", "/sevre.sh does not exist: did you mean {}/serve.sh?"),
        ("folder/", "/folder is not a file but a folder"),
        ("folder/" + "x" * 256, "cannot be reached (File name too long)"),
        ("~nobody-of-this-name/x.sh", "no home is known for ~nobody-of-this-name"),
        ("./dangling", "is a link to nowhere, which does not exist"),
    ],
)
def test_a_script_that_cannot_be_read_is_told_before_anything_boots(there, setup, said):
    with pytest.raises(SettingError) as caught:
        refuse(Guest.alpine(setup=setup), (80,), 256, there)
    assert said.format(there) in str(caught.value)


@pytest.mark.parametrize("setup", [5, b"true", ["a", "b"], {"a": 1}])
def test_a_setup_that_is_no_text_is_refused_by_name(setup):
    for make in (Guest.alpine, lambda **given: Guest.alpine().with_additions(files={}, **given)):
        with pytest.raises(SettingError, match=r"setup = .* is not allowed; write shell text"):
            make(setup=setup)


def told(ask, *given):
    with pytest.raises(GuestNotFoundError) as caught:
        ask(*given)
    return str(caught.value)


def test_what_this_user_may_not_read_is_told(there, monkeypatch):
    # Root may read anything, so the system's word is replaced, and nothing is asserted meanwhile.
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    asked = list(GIVEN.values())
    with monkeypatch.context() as patch:
        patch.setattr(host_files.os, "access", lambda *_: False)
        patch.setattr(host_files, "open_file", refused)
        texts = [told(give, "noble-cloudimg.img") for give in asked]
        texts.append(told(refuse, Guest("g", setup=("serve.sh",)), (80,), 256, there))
        texts.append(told(GIVEN["files"], "folder"))
    assert [text for text in texts if "cannot be read by this user; name" not in text] == []
    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", refused)
        texts = [told(give, "noble-cloudimg.img") for give in asked if give != GIVEN["initrd"]]
    assert [text for text in texts if "cannot be reached (Permission denied)" not in text] == []
