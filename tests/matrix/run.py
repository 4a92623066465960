"""Run a case's project by the Python that runs this, and tell whether it came out as it has to.

    python tests/matrix/run.py CASE --record FILE

Uses nothing but pytest and what the case names: it is run in environments of a user's kind.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import fcntl
import importlib.metadata
import json
import os
import platform
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import time
import xml.etree.ElementTree as ET
from pathlib import Path

from cases import CASES, CORE, Case, Run

from pytest_vmports.errors import VmPortsError
from pytest_vmports.system.programs import choose_accel, find_qemu

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
# As a project of a user's that takes its markers seriously.
INI = "[pytest]\naddopts = --strict-markers --strict-config\nvmports_boot_timeout = 300\n"
# VMs end with their process; its kernel takes a moment.
SECONDS_UNTIL_GONE = 60
COLUMNS, LINES = 120, 400


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", choices=["core", *CASES])
    parser.add_argument("--record", type=Path, help="where the result goes, as JSON")
    options = parser.parse_args()
    core = Case(("pytest",), "", (CORE,))
    case = CASES.get(options.case, core)
    # A short name: sockets of ssh's have to fit into 108 bytes below a user's home.
    with tempfile.TemporaryDirectory(prefix="matrix-", dir="/tmp") as folder:
        wrong = tried(options.case, case, Path(folder, "project"))
    for line in wrong:
        print(f"matrix: {options.case}: {line}", file=sys.stderr)
    if options.record:
        options.record.write_text(json.dumps(result(case, wrong)))
    return 1 if wrong else 0


def tried(name: str, case: Case, folder: Path) -> list[str]:
    """Return what came out otherwise than it has to."""
    shutil.copytree(HERE / "projects" / name, folder)
    (folder / "pytest.ini").write_text(INI)
    for own in ("home", "tmp"):
        (folder / own).mkdir()
    if case.debian:
        shutil.copy(HERE / "projects" / "debian_guest.py", folder / "conftest.py")
    return [line for number, run in enumerate(case.runs, 1) for line in _once(run, number, folder)]


def _once(run: Run, number: int, folder: Path) -> list[str]:
    junit, state = folder / f"junit-{number}.xml", folder / "state"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={junit}"]
    env = environment(state)
    print(f"$ pytest {' '.join(run.words)}", flush=True)
    said = _said([*command, *run.words], folder, env, terminal=run.terminal)
    print(said, flush=True)
    wrong = [f"no {word!r} in what pytest wrote" for word in run.shows if not re.search(word, said)]
    wrong += [f"{word!r} in what pytest wrote" for word in run.hides if re.search(word, said)]
    if "INTERNALERROR" in said:
        wrong.append("an INTERNALERROR")
    if run.aborted:
        wrong += ["it was counted although its process was to end"] if junit.exists() else []
    else:
        wrong += _miscounted(run, junit)
    for pattern, words in run.files.items():
        text = "\n".join(file.read_text() for file in folder.glob(pattern))
        wrong += [f"no {word!r} in {pattern}" for word in words if not re.search(word, text)]
    wrong += _left(env)
    return [f"run {number}: {line}" for line in wrong]


def environment(state: Path) -> dict[str, str]:
    """Return the environment of a run: no settings of ours but where leases and guests are kept."""
    programs = [str(Path(sys.executable).parent)]
    programs += map(str, sorted(CHECKOUT.glob(".tools/gvproxy-*"), reverse=True))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VMPORTS_")}
    return {
        **kept,
        "PATH": os.pathsep.join([*programs, os.environ["PATH"]]),
        "HOME": str(state.parent / "home"),
        "TMPDIR": str(state.parent / "tmp"),
        "COLUMNS": str(COLUMNS),
        "LC_ALL": "C.UTF-8",
        "VMPORTS_MISSING": "error",
        "VMPORTS_STATE_DIR": str(state),
        "VMPORTS_CACHE_DIR": os.environ.get("MATRIX_TEMPLATES", str(state.parent / "templates")),
    }


def _said(command: list[str], folder: Path, env: dict[str, str], *, terminal: bool) -> str:
    if not terminal:
        done = subprocess.run(
            command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
        )  # fmt: skip
        return done.stdout
    ours, its = pty.openpty()
    size = struct.pack("HHHH", LINES, COLUMNS, 0, 0)
    fcntl.ioctl(its, termios.TIOCSWINSZ, size)
    env = {**env, "TERM": "xterm-256color"}
    written = b""
    with subprocess.Popen(command, stdin=its, stdout=its, stderr=its, cwd=folder, env=env):
        os.close(its)
        # Of a terminal whose other side is closed nothing can be read.
        with contextlib.suppress(OSError):
            while True:
                written += os.read(ours, 4096)
    os.close(ours)
    return _as_seen(written)


def _as_seen(written: bytes) -> str:
    """Return what a person sees at the end on a terminal to which this was written."""
    import pyte

    screen = pyte.Screen(COLUMNS, LINES)
    pyte.ByteStream(screen).feed(written)
    return "\n".join(line.rstrip() for line in screen.display).rstrip()


def _miscounted(run: Run, junit: Path) -> list[str]:
    if not junit.exists():
        return ["pytest ended before it counted its tests"]
    suites = [dict(suite.attrib) for suite in ET.parse(junit).iter("testsuite")]
    count = {
        name: sum(int(suite[name]) for suite in suites)
        for name in ("tests", "failures", "errors", "skipped")
    }
    passed = count["tests"] - count["failures"] - count["errors"] - count["skipped"]
    got = (passed, count["failures"], count["errors"], count["skipped"])
    wanted = (run.passed, run.failed, run.errors, 0)
    names = "passed, failed, errors, skipped"
    return [] if got == wanted else [f"{names}: {got}, and not {wanted}"]


def _left(env: dict[str, str]) -> list[str]:
    """Return what is left of a run: a VM holds its ports as long as it lives."""
    program = "from pytest_vmports.leases.cli import held_ports; print(len(held_ports()))"
    deadline = time.monotonic() + SECONDS_UNTIL_GONE
    while True:
        held = subprocess.run(
            [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True
        ).stdout.strip()
        if held == "0":
            return []
        if time.monotonic() > deadline:
            return [f"{held} ports are held after the run's end"]
        time.sleep(0.2)


def result(case: Case, wrong: list[str]) -> dict[str, object]:
    """Return what the table wants to know: it names no host, and no path."""
    named = [re.match(r"[\w.-]+", package)[0] for package in case.packages]
    names = dict.fromkeys([*named, "pytest", "pytest-xdist"])
    return {
        "outcome": "; ".join(wrong) or "passed",
        "versions": {name: importlib.metadata.version(name) for name in names},
        "python": platform.python_version(),
        "date": dt.datetime.now(dt.timezone.utc).date().isoformat(),
        "machine": _machine(),
    }


def _machine() -> str:
    system = "Linux"
    with contextlib.suppress(OSError):
        system = platform.freedesktop_os_release()["PRETTY_NAME"]
    with contextlib.suppress(VmPortsError):
        qemu = find_qemu()
        kind = "emulated" if choose_accel("auto", str(qemu.path)).name == "tcg" else "KVM"
        version = ".".join(map(str, qemu.version))
        return (
            f"{system}, {platform.machine()}, {os.cpu_count()} processors, QEMU {version}, {kind}"
        )
    return f"{system}, {platform.machine()}, without QEMU"


if __name__ == "__main__":
    sys.exit(main())
