"""The script that starts a VM again by hand: it runs in its own folder, whatever that is called."""

import os
import shutil
import subprocess

import pytest
from nasty import NASTY

from pytest_vmports.report import by_hand

WAYS = {
    "absolute": lambda folder: (folder, folder / "qemu.sh"),
    "relative": lambda folder: (folder.parent, os.path.join(folder.name, "qemu.sh")),
    "there": lambda folder: (folder, "qemu.sh"),
    "./": lambda folder: (folder, "./qemu.sh"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_a_start_script_runs_in_the_folder_that_it_lies_in(tmp_path, shell, way):
    if shutil.which(shell) is None:
        shell = "sh"
    for name in [*NASTY.values(), "-P"]:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "qemu.sh").write_text(by_hand._HEAD.format(title="a test") + "pwd -P; echo .\n")
        (tmp_path / "other" / name).mkdir(parents=True, exist_ok=True)
        where, script = WAYS[way](folder)
        done = subprocess.run(
            [shell, "--", script], cwd=where, capture_output=True, check=True,
            env={**os.environ, "CDPATH": str(tmp_path / "other")},
        )  # fmt: skip
        assert os.fsdecode(done.stdout) == f"{folder.resolve()}\n.\n"
