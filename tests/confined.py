"""What a small program of ours may do behind walls: it tries, and tells by the names of errors."""

from __future__ import annotations

import json
import os
import stat
import sys
import textwrap
from dataclasses import replace
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


_FOLDERS = """
for name, place in (("own", own), ("beside", beside)):
    attempt(f"{name} read", lambda: open(f"{place}/file").close())
    attempt(f"{name} write", lambda: open(f"{place}/file", "a").close())
    attempt(f"{name} make", lambda: open(f"{place}/new", "w").close())
    attempt(f"{name} link", lambda: os.symlink("/etc/passwd", f"{place}/link"))
    attempt(f"{name} own", lambda: os.chown(f"{place}/file", 7, 7))
    attempt(f"{name} rights", lambda: os.open(f"{place}/suid", os.O_CREAT, 0o4755))
try:
    os.chmod(f"{own}/file", 0o666)  # which may be pretended
except OSError:
    pass
attempt("passwd", lambda: open("/etc/passwd").close())
for name, do in (("tcp", tcp), ("udp", udp), ("unix", lambda: unix(f"{beside}/s"))):
    attempt(name, do)
"""


def what_it_can(confinement: Confinement, own: Path, beside: Path) -> set[str]:
    """Return what a program can that may have one folder and nothing else of the host.

    Args:
        confinement: how it is kept; it stays readable what runs the trial.
        own: its folder, of which the file ``file`` keeps its mode, or the test fails.
        beside: another one, which stays as it is, or the test fails.
    """
    for place in (own, beside):
        place.mkdir(exist_ok=True)
        (place / "file").write_text("")
        (place / "file").chmod(0o640)
    walls = replace(confinement.walls, read=tuple(confinement.walls.read) + PYTHON)
    output = own.parent / "said"
    output.mkdir()
    kept = replace(confinement, walls=walls)
    said = tries(kept, output, _FOLDERS, own=str(own), beside=str(beside))
    assert stat.S_IMODE((own / "file").stat().st_mode) == 0o640
    assert os.listdir(beside) == ["file"]
    able = {name for name, what in said.items() if what == "done"}
    assert {*os.listdir(own)} == {"file"} | ({"new"} if "own make" in able else set()), said
    return able
