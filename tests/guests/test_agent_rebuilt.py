"""The agent's executables in the package are what its source and the compiler make, bit for bit."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GUESTS = Path("pytest_vmports", "guests")
NAMES = ("x86_64", "aarch64", "riscv64")
# What a compiler leaves of itself in each program.
COMPILER = re.compile(rb"GCC: \([^)]*\) [\d.]+")


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory, missing):
    folder = tmp_path_factory.mktemp("rebuilt")
    (folder / GUESTS).mkdir(parents=True)
    (folder / "scripts").mkdir()
    shutil.copy(ROOT / GUESTS / "agent.c", folder / GUESTS)
    shutil.copy(ROOT / "scripts" / "build-agent", folder / "scripts")
    done = subprocess.run(
        ["bash", folder / "scripts" / "build-agent"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        missing("the agent's compilers", done.stderr)
    return folder / GUESTS


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_executable_is_rebuilt_bit_for_bit(name, rebuilt, missing):
    ours = (ROOT / GUESTS / f"agent.{name}").read_bytes()
    theirs = (rebuilt / f"agent.{name}").read_bytes()
    compilers = [COMPILER.search(one)[0].decode() for one in (ours, theirs)]
    if compilers[0] != compilers[1]:
        missing(f"the compiler that made ours, {compilers[0]}", f"there is {compilers[1]}")
    assert theirs == ours
    assert (rebuilt / "agent.sha256").read_text() == (ROOT / GUESTS / "agent.sha256").read_text()
