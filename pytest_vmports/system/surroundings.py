"""What a process has around it, as it was before any test could change it.

A test may empty the environment, lower its limits, remove its working directory or put functions of
its own in the place of the standard library's. Programs that we start get what was there before,
and so do we while a VM is started. What works beside a running test changes nothing under it.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import pathlib
import re
import shutil
import socket
import sys
import threading
from subprocess import Popen
from typing import TYPE_CHECKING, Any

from pytest_vmports.errors import HostError
from pytest_vmports.system import proc

if TYPE_CHECKING:
    from collections.abc import Iterator

if sys.platform != "win32":
    import resource

_LIMITS = (
    "RLIMIT_NOFILE", "RLIMIT_FSIZE", "RLIMIT_AS", "RLIMIT_DATA", "RLIMIT_NPROC", "RLIMIT_STACK",
    "RLIMIT_CPU",
)  # fmt: skip
# Where tests put something in the place of what we, or those whose code we use, call.
_MODULES = (
    "builtins", "hashlib", "importlib", "importlib.util", "io", "json", "os", "os.path", "platform",
    "selectors", "shutil", "signal", "socket", "subprocess", "tempfile", "threading", "time",
)  # fmt: skip
_CLASSES = (
    pathlib.PurePath, pathlib.Path, pathlib.PosixPath, socket.socket, Popen,
    threading.Thread,
)  # fmt: skip
# pytest's own from phase to phase: it tells a thread's error as a warning.
_OTHERS = {"excepthook"}
_LISTS = ("path", "meta_path", "path_hooks")
# By whole names, as those of others begin likewise: GOOGLE_…, LD_SDK_KEY, NIX_CONFIG.
_PUBLIC = re.compile(
    r"PATH|HOME|TMPDIR|TZ|TZDIR|LANG|LANGUAGE|LC_[A-Z]+|LOCPATH"
    r"|LD_LIBRARY_PATH|LD_PRELOAD|LD_AUDIT|LD_BIND_NOW|LD_DEBUG|NIX_LD|NIX_LD_LIBRARY_PATH"
    r"|GLIBC_TUNABLES|MALLOC_[A-Z_]+|(?:A|L|T|UB)SAN_OPTIONS|G_SLICE|G_DEBUG|G_MESSAGES_DEBUG"
    r"|QEMU_[A-Z_]+|GODEBUG|GOGC|GOMAXPROCS|GOMEMLIMIT|GOTRACEBACK"
    r"|RES_OPTIONS|LOCALDOMAIN|HOSTALIASES"
)
_NONE = object()

_which = shutil.which


def _soft_limits() -> dict[int, int]:
    if sys.platform == "win32":
        return {}
    known = [getattr(resource, name) for name in _LIMITS if hasattr(resource, name)]
    return {limit: resource.getrlimit(limit)[0] for limit in known}


def _umask() -> int:
    # It can only be read by setting it.
    now = os.umask(0o077)
    os.umask(now)
    return now


def _functions() -> list[tuple[Any, str, Any]]:
    """Return module, name and value of what the library offers; of classes all that they have."""
    found = [
        (module, name, value) for module in map(importlib.import_module, _MODULES)
        for name, value in vars(module).items()
        if callable(value) and name not in _OTHERS
    ]  # fmt: skip
    return found + [
        (cls, name, vars(cls).get(name, _NONE)) for cls in _CLASSES for name in dir(cls)
    ]


_variables = dict(os.environ)
_limits = _soft_limits()
_mask = _umask()
_library = _functions()
_lists = {name: [*getattr(sys, name)] for name in _LISTS}
_modules = dict(sys.modules)
_lock = threading.Lock()


class _Inside:
    """How many are in `restored` now, and what the last one puts back."""

    number = 0
    undo: contextlib.ExitStack


class _Thread(threading.local):
    """Whether this thread works beside a test."""

    beside = False


_thread = _Thread()


def variables(*, public: bool = False) -> dict[str, str]:
    """Return the environment as it was.

    Args:
        public: only what a program is found, loaded and spoken to by; the rest may be secrets.
    """
    if not public:
        return dict(_variables)
    return {name: value for name, value in _variables.items() if _PUBLIC.fullmatch(name)}


def which(program: str) -> str | None:
    """Return where a program is: on PATH as it is now, or as it was."""
    with restored():
        for path in (os.environ.get("PATH"), _variables.get("PATH", os.defpath)):
            found = _which(program, path=path or "")
            if found is not None:
                return os.path.join(directory() or os.getcwd(), found)  # noqa: PTH109, PTH118 - as it is asked for
    return None


def directory() -> str | None:
    """Return where a program is to be started: None for where we are, unless that was removed."""
    try:
        os.getcwd()  # noqa: PTH109 - it is asked whether it is there
    except OSError:
        return os.sep
    return None


def umask() -> int:
    """Return the umask as it was."""
    return _mask


def unlimit(child: Popen[bytes]) -> None:
    """Give a child that was started beside a test the limits of before.

    Raises:
        OSError: they cannot be given; the child is ended.
    """
    if not _thread.beside or not sys.platform.startswith("linux"):
        return
    try:
        for limit, (_, wanted, hard) in _lowered().items():
            resource.prlimit(child.pid, limit, (wanted, hard))
    except ProcessLookupError:
        pass  # whoever waits for it sees how it ended
    except OSError:
        child.kill()
        child.wait()
        raise


def refuse_fakes() -> None:
    """See that this module's own `os` is the real one: pyfakefs replaces it in every module.

    Raises:
        HostError: it is a fake, with which nothing of ours can be started.
    """
    kind = type(os)
    if kind is not type(sys):
        raise HostError(
            f"the file system is a fake ({kind.__module__}.{kind.__name__}), and a VM needs "
            "the real one: ask for the VM before the fixture fs, or start it in a block of "
            "`with pyfakefs.fake_filesystem_unittest.Pause(fs):`"
        )


@contextlib.contextmanager
def beside_a_test() -> Iterator[None]:
    """Let `restored` change nothing in a ``with`` block of this thread: a test runs meanwhile.

    What happens there may fail by what the test has made of its surroundings; see `changed`.
    """
    _thread.beside = True
    try:
        yield
    finally:
        _thread.beside = False


def changed() -> bool:
    """Whether a test has changed what `restored` would put back."""
    if _replaced() or _lowered():
        return True
    mask = proc.said("self/status").partition("\nUmask:")[2].split()[:1]
    return bool(mask and int(mask[0], 8) != _mask)


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Have what was there before within a ``with`` block, where a VM is started or asked something.

    That is soft limits no lower than then, the umask, the standard library's functions, which tests
    and their tools replace, and what modules are found by. These are the process's, so a test sees
    them too; but it waits for us meanwhile.
    """
    if _thread.beside:
        yield
        return
    with _lock:
        if not _Inside.number:
            _Inside.undo = _put_back()
        _Inside.number += 1
    try:
        yield
    finally:
        with _lock:
            _Inside.number -= 1
            if not _Inside.number:
                _Inside.undo.close()


def _put_back() -> contextlib.ExitStack:
    """Put back what was there before; return what undoes that."""
    with contextlib.ExitStack() as undo:
        for home, name, now, before in _replaced():
            _set(home, name, before)
            undo.callback(_set, home, name, now)
        for name, before in _lists.items():
            now = getattr(sys, name)
            all_of_them = [*before, *(one for one in now if one not in before)]
            # What stands in front may be there to find no modules; a path is only longer.
            if now != all_of_them and (name != "path" or any(one not in now for one in before)):
                undo.callback(setattr, sys, name, now)
                setattr(sys, name, all_of_them)
        hidden = {name for name, module in sys.modules.items() if module is None}
        for name in hidden.union(n for n, one in _modules.items() if sys.modules.get(n) is not one):
            undo.callback(_set_module, name, sys.modules.get(name, _NONE))
            _set_module(name, _modules.get(name, _NONE))
        if (mask := os.umask(_mask)) != _mask:
            undo.callback(os.umask, mask)
        for limit, (soft, wanted, hard) in _lowered().items():
            resource.setrlimit(limit, (wanted, hard))
            undo.callback(_limit_again, limit, soft)
        return undo.pop_all()


def _replaced() -> list[tuple[Any, str, Any, Any]]:
    """Return home and name of what is not as it was, what is there now and what was before."""
    found = []
    for home, names in itertools.groupby(_library, lambda one: one[0]):
        now = vars(home)
        found += [
            (home, name, now.get(name, _NONE), before) for _, name, before in names
            if now.get(name, _NONE) is not before
        ]  # fmt: skip
    return found


def _set(home: Any, name: str, value: Any) -> None:
    if value is not _NONE:
        setattr(home, name, value)
    else:
        delattr(home, name)


def _set_module(name: str, module: Any) -> None:
    if module is not _NONE:
        sys.modules[name] = module
    else:
        sys.modules.pop(name, None)


def _lowered() -> dict[int, tuple[int, int, int]]:
    """Return the limits that were lowered: what each is, what it may be again, its hard limit."""
    lowered = {}
    for limit, soft in _soft_limits().items():
        hard = resource.getrlimit(limit)[1]
        wanted = hard if _is_less(hard, _limits[limit]) else _limits[limit]
        if _is_less(soft, wanted):
            lowered[limit] = soft, wanted, hard
    return lowered


def _limit_again(limit: int, soft: int) -> None:
    resource.setrlimit(limit, (soft, resource.getrlimit(limit)[1]))


def _is_less(one: int, other: int) -> bool:
    return one != other and (other == resource.RLIM_INFINITY or -1 < one < other)
