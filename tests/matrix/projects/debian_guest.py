"""The conftest.py of the cases whose VMs are Debian: one guest, so one boot and one saved state."""

import os
from pathlib import Path

import pytest

from pytest_vmports import Guest


@pytest.fixture(scope="session")
def vmports_guest():
    """Return Debian 12 with sshd, nginx and Python."""
    folder = Path(os.environ["MATRIX_DEBIAN"])
    return Guest.disk(
        folder / "root.ext4",
        memory=512,
        ssh=True,
        agent=True,
        user_data={"locale": False},
        kernel=folder / "vmlinuz",
        initrd=folder / "initrd.img",
        append="root=/dev/vda rw",
    )
