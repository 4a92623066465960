"""``pytest-vmports images``: what of disks is kept, and what can be fetched before a test asks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from pytest_vmports.cli import tables
from pytest_vmports.errors import FetchError
from pytest_vmports.guests import catalogue, source
from pytest_vmports.images.images import Images, Kept
from pytest_vmports.settings import options
from pytest_vmports.system.architecture import architecture_named
from pytest_vmports.system.mishaps import printable
from pytest_vmports.system.programs import find_qemu

if TYPE_CHECKING:
    import argparse

    from pytest_vmports.system.architecture import Architecture

_MIB = 1 << 20
_COLUMNS = ("IMAGE", "FOR", "ON DISK", "LAST USED", "CONTENT", "FROM")
_DIGITS = len("sha512:") + 12


def run(arguments: argparse.Namespace) -> int:
    """Do what is asked; return the exit status."""
    wanted = options.resolve(options.NoConfig(), {}, "pytest-vmports images")
    kept = Kept(wanted.images_dir, wanted.images_size, wanted.image_mirror)
    images = Images(kept, lambda line: _say(line.removeprefix("vmports: "), sys.stderr))
    try:
        if arguments.action == "pull":
            return _pull(images, arguments, wanted.qemu)
        (_list if arguments.action == "list" else _clear)(images)
    finally:
        images.close()
    return 0


def _pull(images: Images, arguments: argparse.Namespace, qemu: str | None) -> int:
    if not arguments.names or (arguments.sha256 and len(arguments.names) > 1):
        _say(f"name an image; known by name are {', '.join(catalogue.names())}", sys.stderr)
        return 2
    architecture = _architecture(arguments.arch, qemu)
    code = 0
    for name in arguments.names:
        if source.names_container(name):
            wanted = source.read_container(name)
        else:
            wanted = source.read(name, arguments.sha256)
        try:
            path = images.find(wanted, architecture, Path.cwd(), fresh=True)
        except FetchError as error:
            _say(str(error), sys.stderr)
            code = 1
        else:
            _say(f"{wanted.name}: {path}", sys.stdout)
    return code


def _architecture(name: str | None, qemu: str | None) -> Architecture:
    return find_qemu(qemu).architecture if name is None else architecture_named(name)


def _list(images: Images) -> None:
    rows, total = [], 0
    for manifest, size, used in images.store.entries():
        told = manifest.get("facts")
        facts = told if isinstance(told, dict) else {}
        content = facts.get("content")
        digest = content.get("digest", "") if isinstance(content, dict) else ""
        rows.append(
            (
                str(facts.get("name", "?")), str(facts.get("architecture", "")) or "-",
                f"{size / _MIB:.0f} MiB", tables.minute(used), str(digest)[:_DIGITS] or "-",
                str(facts.get("from", "?")),
            )
        )  # fmt: skip
        total += size
    tables.write(rows, header=_COLUMNS)
    found = f"{_images(len(rows))} in {images.store.base}"
    _say(f"{found}, {total / _MIB:.0f} MiB" if total else found, sys.stdout)
    _say(f"by name there are also {', '.join(catalogue.names())}", sys.stdout)


def _clear(images: Images) -> None:
    removed, kept = images.store.clear(), len(images.store.entries())
    text = f"removed {_images(removed)}"
    _say(f"{text}, kept {kept} in use" if kept else text, sys.stdout)


def _images(number: int) -> str:
    return f"{number or 'no'} image{'' if number == 1 else 's'}"


def _say(text: str, stream: TextIO) -> None:
    stream.write(printable(text) + "\n")
