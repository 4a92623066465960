"""The key of a template: the same in another checkout, of another user, at another time."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess

import pytest

from pytest_vmports.pool import planning
from pytest_vmports.pool.guest_choice import chosen_guest
from pytest_vmports.settings import options
from pytest_vmports.system import processors
from pytest_vmports.system.programs import Accelerator

KINDS = ("bundled", "kernel", "disk", "more disks", "program")


@pytest.fixture
def key_of(request, monkeypatch, qemu_binary):
    """Return a function that tells the key of a guest of some kind in a checkout."""
    # Faked: an accelerator that this host need not have.
    monkeypatch.setattr(planning, "choose_accel", lambda name, _qemu: Accelerator(name, "a test"))

    def key(checkout, kind, **changes):
        wanted = {"expose": "8080", "accel": "tcg", "files": f"{checkout}/files=/srv", **changes}
        if kind == "kernel":
            wanted |= {"kernel": f"{checkout}/kernel", "initrd": f"{checkout}/initrd"}
        if kind == "disk":
            wanted |= {"guest": f"{checkout}/disk.qcow2"}
            del wanted["files"]
        if kind == "more disks":
            wanted |= {"disks": f"{checkout}/disk.qcow2 64M"}
        if kind == "program":
            wanted |= {"qemu": f"{checkout}/bin/{qemu_binary.name}"}
        settings = options.resolve(request.config, wanted, "the test")
        plan = planning.plan_of(settings, chosen_guest(settings, None, checkout), checkout)
        return plan.key

    return key


@pytest.fixture
def checkout(tmp_path, qemu_binary):
    """What two people have of the same: one got it long ago, with other rights."""
    first = tmp_path / "first"
    (first / "files" / "sub").mkdir(parents=True)
    (first / "bin").mkdir()
    for name in ("kernel", "initrd", "files/page", "files/sub/run"):
        (first / name).write_text(name)
    (first / "files" / "sub" / "run").chmod(0o755)
    (first / "files" / "link").symlink_to("page")
    make = ["qemu-img", "create", "-q", "-f", "qcow2"]
    subprocess.run([*make, "base.qcow2", "8M"], cwd=first, check=True)
    subprocess.run([*make, "-F", "qcow2", "-b", "base.qcow2", "disk.qcow2"], cwd=first, check=True)
    (first / "bin" / qemu_binary.name).write_text(f'#!/bin/sh\nexec {qemu_binary} "$@"\n')
    (first / "bin" / qemu_binary.name).chmod(0o755)
    return first


@pytest.fixture
def another(checkout, tmp_path):
    """Return the same as another user has it, elsewhere and later."""
    second = tmp_path / "of-another" / "second"
    shutil.copytree(checkout, second, symlinks=True)
    for path in second.rglob("*"):
        if not path.is_symlink():
            path.chmod(stat.S_IMODE(path.stat().st_mode) | 0o020)  # umask 002
        os.utime(path, (1e9, 1e9), follow_symlinks=False)
    return second


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_elsewhere_of_another_and_later_has_the_same_key(key_of, checkout, another, kind):
    assert key_of(checkout, kind) == key_of(another, kind)


CHANGED = {
    "bundled": "files/page", "kernel": "kernel", "disk": "base.qcow2", "more disks": "disk.qcow2",
    "program": "bin",
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_other_content_of_the_same_size_and_time_has_another_key(key_of, checkout, another, kind):
    before = key_of(another, kind)
    changed = another / CHANGED[kind]
    changed = next(changed.iterdir()) if changed.is_dir() else changed
    seen = changed.stat()
    content = bytearray(changed.read_bytes())
    content[-1] ^= 1  # a line's end, or what is behind the data
    changed.write_bytes(content.replace(b"\x0b", b" "))
    os.utime(changed, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert changed.stat().st_size == seen.st_size
    assert key_of(another, kind) != before


def test_a_host_whose_counter_has_another_rate_has_other_keys(key_of, checkout, monkeypatch):
    before = key_of(checkout, "bundled")
    # Faked: another host.
    monkeypatch.setattr(processors, "_first_processor", lambda: {"bogomips": "6000.00"})
    assert key_of(checkout, "bundled") != before
