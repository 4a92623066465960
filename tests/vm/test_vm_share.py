"""Folders of the host in real guests: by 9p where the guest has its driver, else a copy."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import warnings

import pytest
import share_modules
from vm_helpers import FROM_TEMPLATE, GUEST, ask_tcp

from pytest_vmports.errors import MachineDiedError, SharedCopyWarning, ShareError
from pytest_vmports.pool import shares
from pytest_vmports.system import landlock, seccomp
from pytest_vmports.vm import sharing, virtiofs

SECRET = "a secret of the host\n"


# The virtiofsd that can be walled in comes with Debian from 13 on: see `versions`.
WAYS = ("9p", *(["virtiofs"] if virtiofs.find() else []))


@pytest.fixture(scope="module", params=WAYS)
def vm(boot, missing, request):
    """Return a clone with both drivers; each test gives back what it shared."""
    if share_modules.debugfs() is None:
        missing("debugfs", "install e2fsprogs")
    files = {str(share_modules.modules()): "/root/modules"}
    with (
        pytest.MonkeyPatch.context() as patch,
        boot(8080, fresh_boot=False, files=files, setup=share_modules.LOAD + GUEST) as vm,
    ):
        assert vm.origin in FROM_TEMPLATE
        if request.param == "9p":
            patch.setattr(virtiofs, "find", lambda: None)
        vm.way = request.param
        yield vm
        assert ask_tcp(vm, 8080, b"still served") == b"still served"


@pytest.fixture
def walled(missing):
    if problem := landlock.problem() or seccomp.problem():
        missing("walls around QEMU", problem)


@pytest.fixture
def given(vm):
    """Return `vm`, and take away what a test leaves shared."""
    yield vm
    for share in list(vm._shared)[::-1]:
        vm.unshare(share.place)


def says(vm, command):
    """Return all that a command says, however it ends."""
    return vm.run(f"exec 2>&1\n{command}", check=False).stdout


def test_a_folder_is_seen_as_it_is_and_nothing_in_it_is_changed(given, tmp_path):
    vm, folder = given, tmp_path / "of any, name=x"
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "file").write_text("one")
    before = vm.run("echo kept >/run/kept; cat /proc/sys/kernel/random/boot_id").stdout
    assert vm.share(folder, "/srv/it's  here") == vm.way
    # Its guest goes on from where it was.
    assert vm.run("cat /run/kept /proc/sys/kernel/random/boot_id").stdout == f"kept\n{before}"
    assert vm.run(["cat", "/srv/it's  here/below/file"]).stdout == "one"
    (folder / "below" / "file").write_text("another")
    (folder / "new").write_text("")
    assert vm.run("cd /srv/it*; cat below/file; ls").stdout == "anotherbelow\nnew\n"
    # By a mount that is not what we made of it too: QEMU refuses, not the guest alone.
    options = {"9p": "trans=virtio,version=9p2000.L,rw", "virtiofs": "rw"}[vm.way]
    (tag,) = (share.tag for share in vm._shared)
    own = f"umount /srv/it*; mkdir -p /mnt/own; mount -t {vm.way} -o {options} {tag} /mnt/own"
    for place, first in (("/srv/it's  here", ":"), ("/mnt/own", own)):
        vm.run(first)
        for attack in (": >new", "echo x >>below/file", "mkdir d", "rm new", "mv new n", "ln new n",
                       "ln -s new n", "chmod 777 new", "mknod n c 1 3", "touch new"):  # fmt: skip
            done = vm.run(attack, cwd=place, check=False)
            assert done.returncode != 0, (place, attack)
    vm.run("umount /mnt/own")
    assert (folder / "below" / "file").read_text() == "another"
    assert sorted(os.listdir(folder)) == ["below", "new"]
    assert stat.S_IMODE((folder / "new").stat().st_mode) & 0o7111 == 0


def test_a_guest_that_may_write_makes_ordinary_files_of_ours_and_nothing_else(
    given, tmp_path, walled
):
    vm, folder = given, tmp_path / "out"
    folder.mkdir()
    (folder / "old").write_text("old and long")
    (folder / "old").chmod(0o644)
    vm.share(folder, "/srv/out", readonly=False)
    vm.run(
        "cd /srv/out; echo new >new; echo short >old; echo more >>old; mkdir sub; mv new sub/moved;"
        "cp /bin/busybox program; ln old second; cat sub/moved >sub/copy; rm second"
    )
    assert sorted(os.listdir(folder)) == ["old", "program", "sub"]
    assert (folder / "old").read_text() == "short\nmore\n"
    assert (folder / "sub" / "moved").read_text() == "new\n"
    assert (folder / "program").stat().st_mode & 0o111
    for path in folder.rglob("*"):
        assert path.stat().st_uid == os.geteuid()
    for attack in ("ln -s /etc/passwd link", "mkfifo pipe", "mknod null c 1 3", "mknod disk b 8 0",
                   "chown 7 old", "setfattr -n user.x -v 1 old"):  # fmt: skip
        assert vm.run(attack, cwd="/srv/out", check=False).returncode != 0, attack
    vm.run(
        "cp /bin/busybox /root/own; chmod 6755 /root/own; cp -p /root/own /srv/out/; chmod 6755 "
        "/srv/out/program", check=False,
    )  # fmt: skip
    kinds = {stat.S_IFMT(path.lstat().st_mode) for path in folder.rglob("*")}
    assert kinds == {stat.S_IFREG, stat.S_IFDIR}
    assert not [path for path in folder.rglob("*") if path.stat().st_mode & 0o6000]


def test_nothing_leads_a_guest_out_of_a_folder(given, tmp_path, walled):
    vm, folder = given, tmp_path / "shared"
    folder.mkdir()
    (tmp_path / "secret").write_text(SECRET)
    outside = tmp_path / "outside"
    outside.mkdir()
    (folder / "file").symlink_to(tmp_path / "secret")
    (folder / "beside").symlink_to("../secret")
    (folder / "away").symlink_to(outside)
    vm.share(folder, "/srv/shared", readonly=False)
    said = says(
        vm,
        "cd /srv/shared; cat file; cat beside; cat ../secret; cat away/../secret; ls ..;"
        "echo x >away/new; echo x >beside; ls away/; cat ./../../secret",
    )
    assert SECRET not in said
    # Links are the guest's own to follow, in its own files.
    assert vm.run("readlink /srv/shared/file").stdout.strip() == str(tmp_path / "secret")
    # A folder that becomes a link while the guest is in it.
    (folder / "in").mkdir()
    vm.run("mkdir -p /srv/shared/in/deep")
    (folder / "in").rename(tmp_path / "moved")
    (folder / "in").symlink_to(tmp_path)
    assert SECRET not in says(vm, "cd /srv/shared/in && cat secret; echo x >/srv/shared/in/made")
    assert os.listdir(outside) == [] and not (tmp_path / "made").exists()
    assert (tmp_path / "secret").read_text() == SECRET


def test_a_folder_that_was_given_back_is_gone_and_can_come_again(given, tmp_path):
    vm, one, two = given, tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
        (folder / "name").write_text(folder.name)
    vm.share(one, "/srv/one")
    vm.share(two, "/srv/two")
    pids = vm.pids
    assert vm.run("cat /srv/*/name").stdout == "onetwo"
    with pytest.raises(ShareError, match=r"/srv/two is where .* is shared already"):
        vm.share(one, "/srv/two/")
    vm.unshare("/srv/one")
    assert vm.run("ls /srv/one; cat /srv/two/name").stdout == "two"
    # Its QEMU may open that folder still.
    assert vm.share(one, "/srv/again") == vm.way
    assert vm.run("cat /srv/again/name").stdout == "one" and vm.pids == pids
    vm.run("sleep 600 >/dev/null 2>&1 </dev/null & echo $! >/run/sleeper", cwd="/srv/two")
    with pytest.raises(ShareError, match="is in use in the guest, at /srv/two"):
        vm.unshare("/srv/two")
    vm.run("kill $(cat /run/sleeper)")
    with pytest.raises(ShareError, match="/srv/one was not shared; /srv/two, /srv/again is"):
        vm.unshare("/srv/one")


def test_a_vm_with_a_folder_of_the_hosts_is_not_saved_and_a_restore_ends_it(given, tmp_path):
    vm = given
    moment = vm.snapshot()
    vm.share(tmp_path, "/srv/shared")
    with pytest.raises(ShareError, match=r"call vm\.unshare\('/srv/shared'\) first"):
        vm.snapshot()
    vm.restore(moment)
    assert vm.run("ls /srv/shared; ! grep -w share[0-9]* /proc/mounts", check=False).stdout == ""
    with pytest.raises(ShareError, match="nothing is"):
        vm.unshare("/srv/shared")
    vm.share(tmp_path, "/srv/shared")  # as if it had never been


def test_a_folder_that_cannot_be_mounted_says_why_and_leaves_the_vm_as_it_was(given, tmp_path):
    vm = given
    vm.run("mkdir -p /srv; echo text >/srv/file; ln -s / /srv/link")
    for place, why in (("/srv/file", "File exists|not a directory"), ("/srv/link", "is a link")):
        with pytest.raises(ShareError, match=f"could not mount .*({why})"):
            vm.share(tmp_path, place)
    assert "share" not in vm.run("cat /proc/mounts").stdout
    vm.run("rm /srv/file /srv/link")


def test_a_folder_of_our_own_is_shared_with_nobody(given, tmp_path):
    vm = given
    workdir = vm._machine.workdir
    for folder in ("/", "/proc", "/dev/shm", workdir, workdir.parent, workdir.parents[1]):
        with pytest.raises(ShareError, match="never shared"):
            vm.share(folder, "/srv/ours")
    with pytest.raises(ShareError, match="VMs are made of"):
        vm.share(vm._sharing._first_ram.path.parent, "/srv/ours", readonly=False)
    with pytest.raises(ShareError, match="is no folder"):
        vm.share(__file__, "/srv/ours")
    with pytest.raises(ShareError, match="No such file"):
        vm.share(tmp_path / "none", "/srv/ours")


@pytest.mark.slow
def test_a_disk_with_systemd_sees_a_folder_and_keeps_its_disk(vm_factory, debian_guest, tmp_path):
    """Its kernel, for clouds, has virtiofs and no 9p."""
    (tmp_path / "file").write_text("one")
    with (
        warnings.catch_warnings(),
        vm_factory(ports=[80], guest=debian_guest, boot_timeout=900) as vm,
    ):
        warnings.simplefilter("ignore", SharedCopyWarning)
        vm.run("echo on the disk >/root/own; sleep 900 >/dev/null 2>&1 & echo $! >/run/sleeper")
        by = vm.share(tmp_path, "/srv/it")
        assert by == ("virtiofs" if virtiofs.find() else "copy")
        (tmp_path / "file").write_text("two")
        seen = vm.run("cat /root/own /srv/it/file; kill -0 $(cat /run/sleeper)").stdout
        assert seen == f"on the disk\n{'two' if by == 'virtiofs' else 'one'}"
        vm.unshare("/srv/it")


def test_a_guest_without_the_driver_has_a_copy_which_is_said_once(boot, tmp_path, monkeypatch):
    monkeypatch.setattr(shares, "_told", set())
    monkeypatch.setattr(virtiofs, "find", lambda: None)  # its kernel has virtiofs and no 9p
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file").write_text("as it was")
    with boot(8080, fresh_boot=False, setup=GUEST) as vm:
        pids = vm.pids
        with pytest.warns(SharedCopyWarning, match="alpine has no driver .* a copy, as it is now"):
            assert vm.share(tmp_path, "/srv/copy") == "copy"
        assert vm.share(str(tmp_path), "/srv/other") == "copy"  # a warning would be an error
        (tmp_path / "sub" / "file").write_text("changed")
        assert vm.run("cat /srv/copy/sub/file; echo x >/srv/copy/new").stdout == "as it was"
        assert not (tmp_path / "new").exists()
        with pytest.raises(ShareError, match="share it with readonly=True, which copies it"):
            vm.share(tmp_path, "/srv/third", readonly=False)
        vm.snapshot()
        vm.unshare("/srv/copy")
        assert vm.pids == pids and vm.origin in FROM_TEMPLATE


@pytest.mark.parametrize(
    ("arguments", "error", "why"),
    [
        (("", "/srv"), ValueError, "the folder is empty"),
        ((b"/srv", "/srv"), TypeError, "the folder is"),
        (("/srv", "srv"), ValueError, "name a folder below /"),
        (("/srv", "/./"), ValueError, "name a folder below /"),
        (("/srv", None), TypeError, "the path in the guest"),
        (("/srv", "/srv", 1), TypeError, "readonly is 1"),
    ],
)
def test_an_argument_that_means_nothing_is_refused(vm, arguments, error, why):
    with pytest.raises(error, match=why):
        vm.share(*arguments)


def test_without_walls_no_guest_writes_to_a_folder(given, tmp_path, monkeypatch):
    vm = given
    monkeypatch.setattr(landlock, "problem", lambda: "there is none")
    with pytest.raises(ShareError, match=r"needs walls around QEMU.*vm\.get"):
        vm.share(tmp_path, "/srv/out", readonly=False)


def test_a_memory_that_cannot_be_written_leaves_the_vm_and_its_folders(
    given, tmp_path, monkeypatch
):
    vm = given
    (tmp_path / "file").write_text("seen")
    vm.share(tmp_path, "/srv/before")

    def save(machine, _path, *, whole):
        machine.monitor.execute("stop")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sharing.snapshots, "save", save)
    # Each time another QEMU is needed by this one alone.
    monkeypatch.setattr(vm._sharing, "way", lambda _mounting: "9p")
    with pytest.raises(ShareError, match=r"cannot be written to .*No space left.*; make room"):
        vm.share(tmp_path, "/srv/after")
    assert vm.run("cat /srv/before/file").stdout == "seen"


def test_a_virtiofsd_that_ends_is_told_of_and_the_vm_lives(given, tmp_path, monkeypatch, walled):
    vm = given
    monkeypatch.setattr(virtiofs, "find", lambda: "/bin/false")
    with pytest.raises(MachineDiedError, match=r"virtiofsd, which serves .*exit status"):
        vm.share(tmp_path, "/srv/served")
    assert ask_tcp(vm, 8080, b"still served") == b"still served"
    # Its memory is another kind of file by now, and saved all the same.
    vm.run("echo kept >/run/moment")
    moment = vm.snapshot()
    vm.run("rm /run/moment")
    vm.restore(moment)
    assert vm.run("cat /run/moment").stdout == "kept\n"


def test_a_program_of_the_host_reads_what_a_guest_wrote(given, tmp_path, walled):
    given.share(tmp_path, "/srv/out", readonly=False)
    given.run("printf 'echo from the guest' >/srv/out/script")
    said = subprocess.check_output(["sh", tmp_path / "script"], text=True)
    assert said == "from the guest\n"
