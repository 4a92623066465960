"""``pytest-vmports cache``: which guests are saved here, and how they come to another machine."""

from __future__ import annotations

import sys
import tarfile
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vmports.cli import tables
from pytest_vmports.cli.refusal import refuse
from pytest_vmports.images.bounded_tar import open_tar
from pytest_vmports.pool.packed import SUFFIX, PackError, Wanted, contents_of, pack, unpack
from pytest_vmports.pool.template_store import TemplateStore
from pytest_vmports.settings import options
from pytest_vmports.settings.far_store import read_secret
from pytest_vmports.system.mishaps import printable
from pytest_vmports.system.whole_file import whole_file

if TYPE_CHECKING:
    import argparse
    from typing import IO

    from pytest_vmports.pool.template import Template

_MIB = 1 << 20
_COLUMNS = ("KEY", "GUEST", "WIRING", "MEMORY", "ON DISK", "LAST USED", "BUILT WITH")
_WAIT_SECONDS = 600.0


def run(arguments: argparse.Namespace) -> int:
    """Do what is asked; return the exit status."""
    said = {} if arguments.cache_dir is None else {"cache_dir": arguments.cache_dir}
    wanted = options.resolve(options.NoConfig(), said, "--cache-dir")
    folder = None if wanted.cache_dir is None else Path(wanted.cache_dir)
    action, words = arguments.action, arguments.words
    if (
        (action in {"list", "clear"} and words)
        or (action == "import" and len(words) != 1)
        or (action == "export" and not words)
    ):
        return refuse("write list, clear, export FILE [KEY ...], or import FILE", 2)
    if action != "import" and folder is not None and not folder.is_dir():
        sys.stdout.write(f"no templates in {folder}\n")  # opening the store would make it
        return 0
    store = TemplateStore(folder, limit=0 if action == "clear" else wanted.cache_size * _MIB)
    reference = wanted.cache_store_secret
    secret = None if reference is None else read_secret(reference)
    try:
        if action == "export":
            return _export(store, Path(words[0]), words[1:], secret)
        if action == "import":
            return _import(store, Path(words[0]), Wanted(None, secret, wanted.cache_size * _MIB))
        (_list if action == "list" else _clear)(store)
    finally:
        store.close()
    return 0


def _list(store: TemplateStore) -> None:
    rows, total = [], 0
    for manifest, size, used in store.entries():
        facts = manifest.get("facts")
        facts = facts if isinstance(facts, dict) else {}
        told = facts.get("qemu")
        qemu = told[0] if isinstance(told, list) and told else "?"
        rows.append(
            (
                str(manifest["key"]), str(facts.get("name", "?")), str(facts.get("wiring", "?")),
                f"{facts.get('memory', '?')} MiB", f"{size / _MIB:.0f} MiB", tables.minute(used),
                # "7.2.22 (Debian 1:7.2+dfsg-7)": the version is enough
                f"QEMU {str(qemu).partition(' (')[0]}",
            )
        )  # fmt: skip
        total += size
    tables.write(rows, header=_COLUMNS)
    found = f"{_templates(len(rows))} in {store.base}"
    sys.stdout.write(f"{found}, {total / _MIB:.0f} MiB\n" if total else f"{found}\n")


def _clear(store: TemplateStore) -> None:
    removed, kept = store.clear(), len(store.entries())
    text = f"removed {_templates(removed)}"
    sys.stdout.write(f"{text}, kept {kept} in use\n" if kept else f"{text}\n")


def _export(store: TemplateStore, file: Path, keys: list[str], secret: bytes | None) -> int:
    there = {str(manifest["key"]): manifest["facts"] for manifest, _, _ in store.entries()}
    unknown = [key for key in keys if key not in there]
    if unknown or not there:
        what = f"no template has the key {unknown[0]}" if unknown else "no template is there"
        return refuse(f"{what}; pytest-vmports cache list shows them", 2)
    if file.exists():
        return refuse(f"{file} is there already: name another one, or remove it")
    templates = {key: store.use(there[key]) for key in keys or there}
    if damaged := [key for key, template in templates.items() if template is None]:
        return refuse(f"{damaged[0]} is damaged, or was removed meanwhile: nothing is exported")
    try:
        with whole_file(file) as out, tarfile.open(fileobj=out, mode="w") as tar:
            for template in filter(None, templates.values()):
                _add(tar, template, file.parent, secret)
    except OSError as error:
        return refuse(f"{file} cannot be written: {error.strerror}")
    size = file.stat().st_size / _MIB
    sys.stdout.write(printable(f"{_templates(len(templates))} in {file}, {size:.0f} MiB\n"))
    return 0


def _add(tar: tarfile.TarFile, template: Template, folder: Path, secret: bytes | None) -> None:
    # Its size has to be known before it is written.
    with tempfile.TemporaryFile(dir=folder) as packed:
        pack(template, packed, secret)
        info = tarfile.TarInfo(f"{template.folder.name}{SUFFIX}")
        info.size = packed.tell()
        packed.seek(0)
        tar.addfile(info, packed)


def _import(store: TemplateStore, file: Path, wanted: Wanted) -> int:
    code = 0
    try:
        with file.open("rb") as source, open_tar(source) as tar:
            for member in tar:
                try:
                    said = _take(store, _packed(tar, member), wanted)
                except PackError as error:
                    said, code = f"{member.name}: left out, {error}", 1
                sys.stdout.write(printable(f"{said}\n"))
    except (OSError, tarfile.TarError) as error:
        return refuse(f"{file} cannot be imported: {error}")
    return code


def _packed(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    packed = tar.extractfile(member) if member.isreg() else None
    if packed is None or not member.name.endswith(SUFFIX):
        raise PackError("it is no saved guest")
    return packed


def _take(store: TemplateStore, packed: IO[bytes], wanted: Wanted) -> str:
    """Put one into the store, and return a line about it.

    Raises:
        PackError: it is not to be believed.
    """
    contents = contents_of(packed, wanted)
    if store.use(contents.facts) is not None:
        return f"{contents.key}: is there already"
    packed.seek(0)
    store.get(contents.facts, partial(unpack, packed, wanted=wanted), _WAIT_SECONDS)
    return f"{contents.key}: imported, {contents.facts.get('name')}"


def _templates(number: int) -> str:
    return f"{number or 'no'} template{'' if number == 1 else 's'}"
