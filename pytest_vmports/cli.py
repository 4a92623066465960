"""``pytest-vmports ports | doctor | cache``: ports held now, what works here, saved guests."""

from __future__ import annotations

import argparse
import os
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vmports.errors import HostError, VmPortsError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_vmports.vm.template_store import TemplateStore

_MIB = 1 << 20
_COLUMNS = ("KEY", "GUEST", "WIRING", "MEMORY", "ON DISK", "LAST USED", "BUILT WITH")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status: 0 well, 1 something is missing or wrong."""
    parser = argparse.ArgumentParser("pytest-vmports", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    ports = commands.add_parser("ports", help="list the host ports that tests hold now")
    ports.set_defaults(run=lambda _: _ports())
    doctor = commands.add_parser("doctor", help="say what works here and what is missing")
    doctor.set_defaults(run=lambda _: _doctor())
    cache = commands.add_parser("cache", help="list or remove the saved states of guests")
    cache.add_argument("action", choices=("list", "clear"), help="clear removes those not in use")
    cache.add_argument(
        "--cache-dir", type=Path, metavar="DIR", default=os.environ.get("VMPORTS_CACHE_DIR"),
        help="where they are kept, if not in the user's cache folder",
    )  # fmt: skip
    cache.set_defaults(run=_cache)
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except VmPortsError as error:
        sys.stderr.write(f"pytest-vmports: {error}\n")
        return 1


def _ports() -> int:
    from pytest_vmports.leases import PortAllocator

    with PortAllocator() as allocator:
        for info in allocator.leases():
            sys.stdout.write(f"{info.host}:{info.port}/{info.protocol}  {info.describe()}\n")
    return 0


def _doctor() -> int:
    from pytest_vmports.guests.alpine import find_images
    from pytest_vmports.host import choose_accel, find_gvproxy, find_qemu

    checks: dict[str, Callable[[], object]] = {
        "QEMU": find_qemu,
        "accelerator": lambda: choose_accel("auto", find_qemu().path),
        "gvproxy": find_gvproxy,
        "bundled guest": lambda: find_images()[0],
    }
    answers = [_answer(name, check) for name, check in checks.items()]
    return 0 if all(answers) else 1


def _cache(options: argparse.Namespace) -> int:
    from pytest_vmports.vm.template_store import TemplateStore

    folder = options.cache_dir and Path(options.cache_dir)
    if folder is not None and not folder.is_dir():  # opening the store would make it
        sys.stdout.write(f"no templates in {folder}\n")
        return 0
    store = TemplateStore(folder, limit=0)
    (_list if options.action == "list" else _clear)(store)
    return 0


def _list(store: TemplateStore) -> None:
    rows, total = [_COLUMNS], 0
    for manifest, size, used in store.entries():
        facts = manifest.get("facts")
        facts = facts if isinstance(facts, dict) else {}
        qemu, *_ = facts.get("qemu") or ["?"]
        rows.append(
            (
                str(manifest["key"]), str(facts.get("name", "?")), str(facts.get("wiring", "?")),
                f"{facts.get('memory', '?')} MiB", f"{size / _MIB:.0f} MiB", _minute(used),
                # "QEMU 7.2.9 (/usr/bin/…, from PATH)": the version is enough
                str(qemu).partition(" (")[0],
            )
        )  # fmt: skip
        total += size
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows if rows[1:] else []:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")
    found = f"{_templates(len(rows) - 1)} in {store.base}"
    sys.stdout.write(f"{found}, {total / _MIB:.0f} MiB\n" if total else f"{found}\n")


def _clear(store: TemplateStore) -> None:
    removed, kept = store.clear(), len(store.entries())
    text = f"removed {_templates(removed)}"
    sys.stdout.write(f"{text}, kept {kept} in use\n" if kept else f"{text}\n")


def _templates(number: int) -> str:
    return f"{number or 'no'} template{'' if number == 1 else 's'}"


def _minute(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, timezone.utc).astimezone()
    return moment.strftime("%Y-%m-%d %H:%M")


def _answer(name: str, check: Callable[[], object]) -> bool:
    try:
        sys.stdout.write(f"{name}: {check()}\n")
    except HostError as error:
        sys.stdout.write(f"{name}: {error}\n")
        return False
    return True
