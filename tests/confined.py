"""What a small program of ours may do behind walls: it tries, and tells by the names of errors."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_vmports.system.process import spawn

if TYPE_CHECKING:
    from pytest_vmports.system.confined import Confinement

PYTHON = tuple(map(Path, {sys.base_prefix, sys.prefix, str(Path(sys.executable).resolve())}))
_BEGIN = """
import ctypes, errno, json, os, signal, socket, stat, struct, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
said = {}
def call(name, *arguments):
    arguments = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    answer = getattr(libc, name)(*arguments)
    if answer < 0:
        raise OSError(ctypes.get_errno(), name)
    return answer
def attempt(name, do):
    try:
        do()
        said[name] = "done"
    except OSError as error:
        said[name] = errno.errorcode[error.errno]
def unix(path, kind=socket.SOCK_STREAM):
    return socket.socket(socket.AF_UNIX, kind).bind(path)
def tcp(family=socket.AF_INET, protocol=0):
    return socket.socket(family, socket.SOCK_STREAM, protocol)
def udp(family=socket.AF_INET):
    return socket.socket(family, socket.SOCK_DGRAM)
"""


def tries(
    confinement: Confinement | None, output: Path, code: str, seconds: float = 60, **given: Any
) -> dict[str, str]:
    """Return what became of each ``attempt`` in a program of its own.

    Args:
        confinement: how the program is kept.
        output: where the folder for what it says.
        code: what it does; ``tell(file)`` is called at its end.
        seconds: how long it may take.
        given: names that it finds.
    """
    values = "".join(f"{name} = {value!r}\n" for name, value in given.items())
    whole = _BEGIN + values + textwrap.dedent(code) + "\nprint('SAID', json.dumps(said))\n"
    log = output / "tries.log"
    log.unlink(missing_ok=True)
    child = spawn(
        "a trial", [sys.executable, "-I", "-S", "-c", whole], log=log, confinement=confinement
    )
    try:
        assert child.wait(seconds) == 0, child.output
        said = child.output.partition("SAID ")[2]
        result: dict[str, str] = json.loads(said)
        return result
    finally:
        child.kill()
