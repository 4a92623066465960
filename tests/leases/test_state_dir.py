"""Where the lock files are, and what is refused."""

import errno
import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pytest_vmports.errors import StateDirError
from pytest_vmports.leases import PortAllocator, lock_file, state_dir
from pytest_vmports.leases.state_dir import make_state_dir, network_file_system, state_dir_path
from pytest_vmports.system import run_dir


@pytest.fixture
def root(missing):
    """Who asks for it does what only root may do."""
    if os.geteuid() != 0:
        missing("root", "run as root, in a container if need be")


@pytest.fixture(autouse=True)
def nobody_says_otherwise(monkeypatch):
    monkeypatch.delenv("VMPORTS_STATE_DIR", raising=False)


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_it_is_private_and_one_per_network_namespace(tmp_path):
    old = os.umask(0)
    try:
        path = make_state_dir(tmp_path / "a" / "b")
    finally:
        os.umask(old)
    assert path == tmp_path / "a" / "b" / f"net-{Path('/proc/self/ns/net').stat().st_ino}"
    assert (mode_of(path), mode_of(path.parent)) == (0o700, 0o700)


@pytest.mark.usefixtures("root")
def test_another_network_namespace_has_a_directory_of_its_own(tmp_path, missing):
    program = (
        "import sys; from pytest_vmports.leases.state_dir import state_dir_path as path\n"
        "print(path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", program, tmp_path]
    inside = subprocess.run(
        ["unshare", "--net", *command], capture_output=True, text=True, check=False
    )
    if inside.returncode:
        missing(f"a new network namespace ({inside.stderr.strip()})", "allow unshare --net")
    outside = subprocess.check_output(command, text=True)
    assert outside.strip() == str(state_dir_path(tmp_path))
    assert inside.stdout.strip() != outside.strip()


def test_without_namespaces_it_is_the_hosts(monkeypatch, tmp_path):
    monkeypatch.setattr(state_dir, "NETNS", tmp_path / "none")
    assert state_dir_path(tmp_path) == tmp_path / "host"


def test_the_variable_names_it_and_an_argument_wins(monkeypatch, tmp_path):
    monkeypatch.setenv("VMPORTS_STATE_DIR", str(tmp_path / "variable"))
    assert state_dir_path().parent == tmp_path / "variable"
    assert state_dir_path(tmp_path / "argument").parent == tmp_path / "argument"


def test_it_is_in_the_users_runtime_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert state_dir_path().parent == tmp_path / "pytest-vmports"


@pytest.mark.parametrize("runtime", ["", "/nonexistent/run"])
def test_without_a_runtime_directory_it_is_below_the_temp_dir(monkeypatch, tmp_path, runtime):
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    monkeypatch.setattr(run_dir.tempfile, "gettempdir", lambda: str(tmp_path))
    assert state_dir_path().parent == tmp_path / f"pytest-vmports-{os.geteuid()}"


@pytest.mark.usefixtures("root")
def test_another_users_runtime_directory_is_left_alone(monkeypatch, tmp_path):
    os.chown(tmp_path, 12345, -1)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert tmp_path not in state_dir_path().parents


@pytest.mark.parametrize("level", ["base", "namespace"])
def test_a_symbolic_link_is_refused(tmp_path, level):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    base = tmp_path / "base"
    link = base if level == "base" else state_dir_path(base)
    link.parent.mkdir(mode=0o700, exist_ok=True)
    link.symlink_to(elsewhere)
    with pytest.raises(StateDirError, match="symbolic link") as caught:
        make_state_dir(base)
    assert caught.value.path == str(link)
    assert list(elsewhere.iterdir()) == []


def test_a_file_in_its_place_is_refused(tmp_path):
    (tmp_path / "base").write_text("")
    with pytest.raises(StateDirError, match="not a directory"):
        make_state_dir(tmp_path / "base")


def test_a_directory_open_to_others_is_refused(tmp_path):
    path = make_state_dir(tmp_path)
    path.chmod(0o750)
    with pytest.raises(StateDirError, match=r"mode 0750.*chmod 700"):
        make_state_dir(tmp_path)
    path.chmod(0o700)
    tmp_path.chmod(0o770)
    with pytest.raises(StateDirError, match="mode 0770"):
        make_state_dir(tmp_path)


@pytest.mark.usefixtures("root")
def test_a_directory_of_another_user_is_refused(tmp_path):
    make_state_dir(tmp_path / "base")
    os.chown(tmp_path / "base", 12345, -1)
    with pytest.raises(StateDirError, match=r"belongs to user 12345.*VMPORTS_STATE_DIR"):
        make_state_dir(tmp_path / "base")


def test_a_place_where_everybody_may_rename_is_refused(tmp_path):
    open_place = tmp_path / "open"
    open_place.mkdir()
    open_place.chmod(0o777)
    with pytest.raises(StateDirError, match=r"chmod \+t"):
        make_state_dir(open_place / "base")
    open_place.chmod(0o1777)
    make_state_dir(open_place / "base")


MOUNTS = r"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 0:40 / {top}/home\040of rw - nfs4 server:/home rw
41 40 0:41 / {top}/home\040of/local rw shared:7 - tmpfs tmpfs rw
42 22 0:42 / {top}/shadowed rw - nfs server:/x rw
43 22 0:43 / {top}/shadowed rw - xfs /dev/sdb rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("home of/user", "nfs4"),
        ("home of", "nfs4"),
        ("home official", ""),
        ("home of/local/x", ""),
        ("shadowed/x", ""),
    ],
)
def test_a_network_file_system_is_recognised(tmp_path, path, kind):
    table = tmp_path / "mountinfo"
    table.write_text(MOUNTS.format(top=tmp_path))
    assert network_file_system(tmp_path / path, table) == kind


def test_a_network_file_system_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(state_dir, "network_file_system", lambda _path: "nfs4")
    with pytest.raises(StateDirError, match=r"network file system \(nfs4\).*VMPORTS_STATE_DIR"):
        make_state_dir(tmp_path)


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(StateDirError, match="cannot keep files in /proc/none"):
        make_state_dir("/proc/none/such")


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize(
    ("prepare", "reason", "remedy"),
    [
        ('mount -o remount,ro "$0"', "Read-only file system", "on a writable file system"),
        ('cat /dev/zero > "$0/fill" 2>/dev/null; true', "No space left", "make room"),
    ],
)
def test_a_full_or_read_only_file_system_is_named(tmp_path, prepare, reason, remedy, missing):
    program = """
        import subprocess, sys
        from pytest_vmports.leases import PortAllocator
        from pytest_vmports.errors import StateDirError
        with PortAllocator(sys.argv[1], (15900, 15910)) as allocator:
            subprocess.run(["sh", "-c", sys.argv[2], sys.argv[1]], check=True)
            try:
                allocator.acquire()
            except StateDirError as error:
                print(error)
    """
    shell = 'mount -t tmpfs -o size=64k,mode=700 none "$0" || exit 77; exec "$@"'
    run = subprocess.run(
        ["unshare", "--mount", "sh", "-c", shell, tmp_path, sys.executable, "-c",
         textwrap.dedent(program), tmp_path, prepare],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if run.returncode in (1, 77) and "Traceback" not in run.stderr:
        missing(f"a mount namespace ({run.stderr.strip()})", "allow unshare --mount")
    assert reason in run.stdout, run.stderr
    assert remedy in run.stdout


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOLCK, "set VMPORTS_STATE_DIR to a local one"),
        (errno.ENOSYS, "set VMPORTS_STATE_DIR to a local one"),
        (errno.EACCES, "see who owns the files in it"),
        (errno.EDQUOT, "free some of your quota"),
    ],
)
def test_what_the_file_system_refuses_is_explained(tmp_path, monkeypatch, number, remedy):
    def refuse(_fd, *, blocking):
        raise OSError(number, os.strerror(number))

    with PortAllocator(tmp_path, (15911, 15920)) as allocator:
        monkeypatch.setattr(lock_file, "lock_descriptor", refuse)
        with pytest.raises(StateDirError, match=remedy) as caught:
            allocator.acquire()
    assert caught.value.reason == os.strerror(number)


def test_a_removed_directory_is_an_error(tmp_path):
    with PortAllocator(tmp_path, (15921, 15930)) as allocator:
        allocator.directory.rmdir()
        with pytest.raises(StateDirError, match="removed while in use"):
            allocator.acquire()


def test_a_lease_file_that_is_a_symbolic_link_is_refused(tmp_path):
    with PortAllocator(tmp_path, (15931, 15931)) as allocator:
        (allocator.directory / "tcp-15931").symlink_to("/etc/hostname")
        with pytest.raises(StateDirError, match=r"symbolic link.*which is .*/tcp-15931"):
            allocator.acquire()


def test_a_fixed_port_whose_file_is_none_names_it(tmp_path):
    with PortAllocator(tmp_path, (15931, 15932)) as allocator:
        os.mkfifo(allocator.directory / "tcp-15931")
        (allocator.directory / "tcp-15932").mkdir()
        for port in (15931, 15932):
            with pytest.raises(StateDirError, match=f"remove it, which is .*/tcp-{port}"):
                allocator.acquire_fixed(port, timeout=0)
