"""What cannot work is refused before it boots, and what may work is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_vmports.errors import GuestNotFoundError, SettingError
from pytest_vmports.guests import host_files
from pytest_vmports.guests.guest import Guest
from pytest_vmports.guests.hopeless import refuse
from pytest_vmports.guests.image import Disk

SERVER = "nc -lk -p 80 -e cat &"


@pytest.fixture
def root(tmp_path):
    """Return a folder with a script, an empty one and a folder of an init's files."""
    (tmp_path / "serve.sh").write_text(SERVER)
    (tmp_path / "empty.sh").write_text("#!/bin/sh\n# nothing yet\n")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "inittab").write_text("::sysinit:/my/init")
    return tmp_path


def guest(*setup, files=(), **fields):
    return Guest(name="alpine", setup=setup, files=dict(files), **fields)


def refused(root, asked, ports=(8080,), memory=256):
    with pytest.raises(SettingError) as caught:
        refuse(asked, ports, memory, root)
    return str(caught.value)


# --- nothing listens ----------------------------------------------------------------------------

NOTHING = [(), ("",), ("\n  \n",), ("# only words",), ("empty.sh",), ("", "# twice")]


@pytest.mark.parametrize("setup", NOTHING)
def test_a_prepared_guest_that_starts_nothing_is_refused_with_what_to_do(root, setup):
    text = refused(root, guest(*setup), ports=(8080, 9090))
    assert text.startswith("no setup starts a server, ")
    assert "nothing would ever answer on port 8080, 9090 of the guest alpine: " in text
    for remedy in ('setup="server &"', 'wait_for="none"', "/vmports/setup.d/ by files"):
        assert remedy in text


@pytest.mark.parametrize("setup", NOTHING)
def test_it_is_not_where_no_port_is_waited_for(root, setup):
    refuse(guest(*setup), (), 256, root)


@pytest.mark.parametrize(
    "asked",
    [
        guest(SERVER),
        guest("", SERVER),
        guest("serve.sh"),
        guest("true"),
        guest(prepared=False),
        guest(
            prepared=False, root_disk=Disk(Path("disk.qcow2"), "qcow2", "bios", None, False, False)
        ),
        guest(files={"serve.sh": "/vmports/setup.d/50"}),
        guest(files={"serve.sh": "/vmports/setup.d/"}),
        guest(files={"serve.sh": "/init"}),
        guest(files={"etc": "/etc"}),
        guest(files={"etc": "/"}),
    ],
)
def test_what_may_start_a_server_is_not_refused(root, asked):
    refuse(asked, (8080,), 256, root)


@pytest.mark.parametrize("target", ["/srv/app", "/etc/app.conf", "/initial", "/vmports/other"])
def test_files_that_begin_nothing_are_no_setup(root, target):
    assert "nothing would ever answer" in refused(root, guest(files={"serve.sh": target}))


# --- a script that is not there -----------------------------------------------------------------


@pytest.mark.parametrize(
    "setup", ["setup.sh", "./setup.sh", "scripts/setup", "scripts/setup.py", "../x", "etc/"]
)
def test_a_setup_that_looks_like_a_path_and_is_none_is_refused_with_where_it_was_looked_for(
    root, setup
):
    text = refused(root, guest(setup), ports=())
    assert f"guest alpine: setup = {setup!r} is not allowed" in text
    assert f"{root / setup} " in text
    assert f"relative to pytest's rootdir, which is {root}" in text
    assert f"write 'exec {setup}'" in text


def test_a_folder_is_told_as_such(root):
    (root / "d.sh").mkdir()
    assert f"{root / 'd.sh'} is not a file but a folder" in refused(root, guest("d.sh"))


def test_an_absolute_path_that_is_on_no_host_is_refused_when_it_ends_as_a_script(root):
    assert "/home/me/setup.sh does not exist" in refused(root, guest("/home/me/setup.sh"))


@pytest.mark.parametrize(
    "setup",
    [
        "reboot", "/usr/sbin/guestsd", "httpd", "setup.sh arg", "./setup.sh &", "cd /tmp\n./run.sh",
        "nc -lk -p 80 -e cat &", "a/b;c", "exec setup.sh", "x" * 5000,
    ],
)  # fmt: skip
def test_shell_text_is_taken_as_that(root, setup):
    refuse(guest(setup), (8080,), 256, root)


@pytest.mark.parametrize(
    ("files", "setup"),
    [
        ({"serve.sh": "/root/go.sh"}, "./go.sh"),
        ({"serve.sh": "/usr/bin/"}, "/usr/bin/serve.sh"),
        ({"etc": "/opt/app"}, "app/inittab"),
    ],
)
def test_a_script_that_comes_by_files_is_one_of_the_guests(root, files, setup):
    refuse(guest(setup, files=files), (8080,), 256, root)


# --- more files than memory ---------------------------------------------------------------------


def large(root, mib, name="large"):
    with (root / name).open("wb") as file:
        file.truncate(mib << 20)
    return name


def test_files_that_memory_cannot_hold_are_refused_with_both_sizes_and_what_is_enough(root):
    text = refused(root, guest(SERVER, files={large(root, 300): "/srv/large"}))
    assert "guest alpine: files = '300 MiB' is not allowed" in text
    assert "the guest's memory, which is 256 MiB" in text
    assert "set memory = 704" in text
    refuse(guest(SERVER, files={"large": "/srv/large"}), (8080,), 704, root)


def test_all_files_count_together_those_of_a_folder_too(root):
    folder = root / "many"
    (folder / "deep").mkdir(parents=True)
    for number in range(3):
        large(folder / "deep", 40, f"{number}")
    files = {"many": "/srv", large(root, 20): "/one"}
    assert "'140 MiB'" in refused(root, guest(SERVER, files=files))
    refuse(guest(SERVER, files={"many": "/srv"}), (8080,), 256, root)


def test_the_initrd_counts_where_there_are_files(root):
    initrd = root / large(root, 30, "initrd")
    files = {large(root, 120): "/srv/large"}
    assert "set memory = " in refused(root, guest(SERVER, files=files, initrd_path=initrd))
    refuse(guest(SERVER, files=files), (8080,), 256, root)


def test_what_is_wrong_with_files_is_left_to_who_reads_them(root):
    (root / "dangling").symlink_to("nowhere")
    refuse(guest(SERVER, files={"dangling": "/a", "none": "/b"}), (8080,), 256, root)


# --- what no shell reads ------------------------------------------------------------------------

UNREADABLE = {
    "crlf": (b"#!/bin/sh\r\nnc -lk -p 80 -e cat &\r\n", "end as on Windows"),
    "crlf without a first line": (b"set -e\r\nnc -lk -p 80 -e cat &\r\n", "eol=lf"),
    "crlf in its first line": (b"#!/bin/sh\r\nnc -lk -p 80 -e cat &\n", "each CR"),
    "crlf but for its end": (b"echo 1\r\nnc -lk -p 80 -e cat &", "LF alone"),
    "a byte order mark": (b"\xef\xbb\xbf#!/bin/sh\nnc -lk -p 80 -e cat &\n", "byte order mark"),
    "UTF-16": ("#!/bin/sh\nnc &\n".encode("utf-16"), "UTF-16 or a program"),
    "UTF-16 without a mark": ("#!/bin/sh\nnc &\n".encode("utf-16-le"), "save it as UTF-8"),
    "a program": (b"\x7fELF\2\1\1\0\0\0", "a program goes into files"),
}
READABLE = {
    "a CR in a word": b"printf 'a\r\n' >/x\nnc -lk -p 80 -e cat &\n",
    "no end of its last line": b"#!/bin/sh\nnc -lk -p 80 -e cat &",
    "Latin-1": b"echo caf\xe9\nnc -lk -p 80 -e cat &\n",
    "data behind its text": b"#!/bin/sh\nnc -lk -p 80 -e cat &\nexit\n\0\x7fELF\r\n",
    "some lines that end in CR": b"cat >/x <<E\na\r\nE\nnc -lk -p 80 -e cat &\n",
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_script_that_no_shell_reads_is_refused_with_what_to_do(root, kind):
    data, reason = UNREADABLE[kind]
    (root / "serve.sh").write_bytes(data)
    for setup in ("serve.sh", str(root / "serve.sh")):
        text = refused(root, guest(setup))
        assert str(root / "serve.sh") in text and reason in text


@pytest.mark.parametrize("setup", ["echo half\necho a\0b", "\ufeffnc &", "nc &\r\n", "echo \ud800"])
def test_a_text_that_no_shell_reads_is_refused_too(root, setup):
    assert "guest alpine: setup = " in refused(root, guest("nc &", setup))


@pytest.mark.parametrize("kind", READABLE)
def test_a_script_that_a_shell_reads_is_not_refused(root, kind):
    (root / "serve.sh").write_bytes(READABLE[kind])
    refuse(guest("serve.sh"), (8080,), 256, root)


def test_a_script_that_cannot_be_read_is_named(root, monkeypatch):
    def as_somebody_else(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(host_files, "open_file", as_somebody_else)
    with pytest.raises(GuestNotFoundError) as caught:
        refuse(guest("serve.sh"), (8080,), 256, root)
    assert f"the setup {root}/serve.sh cannot be read (Permission denied)" in str(caught.value)


@pytest.mark.parametrize("to", ["/etc", "/usr/local/bin", "/srv", "/tmp"])
def test_a_file_in_the_place_of_a_folder_is_refused_with_its_spelling(root, to):
    text = refused(root, guest(SERVER, files={"serve.sh": to}))
    assert f"write '{to}/'" in text and "is a folder in any guest" in text
    refuse(guest(SERVER, files={"serve.sh": f"{to}/"}), (8080,), 256, root)
    refuse(guest(SERVER, files={"etc": to}), (8080,), 256, root)  # a folder


def test_a_file_below_a_file_is_refused(root):
    text = refused(root, guest(SERVER, files={"serve.sh": "/app", "empty.sh": "/app/empty.sh"}))
    assert "/app" in text and "where /app/empty.sh is to be as well" in text


@pytest.mark.parametrize("told", [{"mode": "reboot"}, {"mode": "reboot", "delay": "now"}])
def test_a_disk_whose_user_data_reboots_it_is_refused_where_it_may_not(root, told):
    (root / "disk.raw").write_bytes(bytes(510) + b"\x55\xaa" + bytes(4096))
    asked = Guest.disk(root / "disk.raw", user_data={"power_state": told})
    text = refused(root, asked)
    assert "set on_reboot = allow" in text
    refuse(asked, (80,), 256, root, may_reboot=True)
    for other in ({"mode": "poweroff"}, {**told, "condition": "false"}):
        refuse(Guest.disk(root / "disk.raw", user_data={"power_state": other}), (80,), 256, root)
