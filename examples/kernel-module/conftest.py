"""The modules, built once, and a guest that has them."""

import os
import subprocess
from pathlib import Path

import pytest
from filelock import FileLock

from pytest_vmports import Guest

HERE = Path(__file__).parent
KERNEL = Path(os.environ.get("KERNEL", HERE / "build" / "kernel"))


@pytest.fixture(scope="session")
def modules():
    """Build the modules, and return their folder."""
    # One of xdist's workers builds; for the others there is nothing left to do.
    with FileLock(HERE / ".build.lock"):
        subprocess.run(["make", f"KERNEL={KERNEL}"], cwd=HERE, check=True)
    return HERE / "module"


@pytest.fixture(scope="session")
def vmports_guest(modules):
    """Return Debian's kernel with busybox around it, and the device's module loaded."""
    return Guest.kernel(
        KERNEL / "vmlinuz",
        files={
            str(KERNEL / "busybox"): "/bin/busybox",
            str(modules / "capitals.ko"): "/modules/capitals.ko",
            str(modules / "faulty.ko"): "/modules/faulty.ko",
        },
        # What the kernel said of its own start is nothing to the tests.
        setup="dmesg -c >/dev/null && insmod /modules/capitals.ko",
    )
