"""Trees of files, laid out and looked at bit by bit."""

from __future__ import annotations

import os
import stat
from typing import Any


def picture(
    root: Any, *, times_of_links: bool = True, special_bits: bool = True
) -> dict[bytes, Any]:
    """Return all that can be seen of a tree: path to kind, mode, time, content and twins."""
    found: dict[bytes, Any] = {}
    twins: dict[tuple[int, int], bytes] = {}
    for folder, folders, names in os.walk(os.fsencode(root)):
        for path in [folder] if folder == os.fsencode(root) else []:
            found[b"."] = facts(path, b".", twins, times_of_links, special_bits)
        for one in (*folders, *names):
            path = os.path.join(folder, one)
            name = os.path.relpath(path, os.fsencode(root))
            found[name] = facts(path, name, twins, times_of_links, special_bits)
    return found


def facts(
    path: Any, name: bytes, twins: dict[tuple[int, int], bytes], times_of_links: bool,
    special_bits: bool,
) -> tuple[Any, ...]:  # fmt: skip
    """Return what can be seen of a file; of a second name, the first among ``twins``."""
    seen = os.lstat(path)
    kind, mode = stat.S_IFMT(seen.st_mode), stat.S_IMODE(seen.st_mode)
    if kind == stat.S_IFLNK:
        return kind, os.readlink(path), int(seen.st_mtime) if times_of_links else None
    if not special_bits:
        mode &= 0o1777 if kind == stat.S_IFDIR else 0o777
    content = b""
    if kind == stat.S_IFREG:
        with open(path, "rb") as file:
            content = file.read()
    twin = twins.setdefault((seen.st_ino, seen.st_dev), name) if seen.st_nlink > 1 else name
    return kind, mode, int(seen.st_mtime), content, twin if kind == stat.S_IFREG else b""


def lay(root: Any, tree: dict[bytes, Any]) -> None:
    """Make a tree of files (bytes, or mode and bytes), folders (dicts) and ("link", target)."""
    os.mkdir(root)
    for name, what in tree.items():
        path = os.path.join(os.fsencode(root), name)
        mode = 0o644
        if isinstance(what, tuple) and what[0] == "link":
            os.symlink(what[1], path)
        elif isinstance(what, dict):
            lay(path, what)
            mode = 0o755
        else:
            mode, content = what if isinstance(what, tuple) else (mode, what)
            with open(path, "wb") as file:
                file.write(content)
        if not os.path.islink(path):
            os.chmod(path, mode)
        os.utime(path, (1_000_000_000 + len(name),) * 2, follow_symlinks=False)
    os.utime(root, (1_234_567_890,) * 2)


def nasty(root: str) -> str:
    """Lay out the tree of everything that has ever gone wrong, and return its root."""
    deep: dict[bytes, Any] = {b"deep": b"end"}
    for _ in range(6):
        deep = {b"d" * 200: deep}
    lay(root, {
        b"dangling": ("link", b"nowhere"), b"loop": ("link", b"loop"), b"up": ("link", b".."),
        b"here": ("link", b"."), b"absolute": ("link", b"/etc/hostname"), b"-rf": b"a dash",
        b"empty": b"", b"empty folder": {}, b"long": deep, b"zeros": bytes(70_000),
        b"set-id": (0o6755, b"#!"), b"other": {b"x": b"y"},
    })  # fmt: skip
    os.link(os.path.join(root, "-rf"), os.path.join(root, "other", "second name"))
    os.utime(os.path.join(root, "other"), (1, 1))
    return root
