"""VMs below folders of odd names, in a locale without room for them: one run for each wiring."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from nasty import EVERYTHING

from pytest_vmports.system.stored import KEY_LENGTH

TEST = r"""
import os
import pytest

@pytest.mark.vmports(8080, setup="setup, of any % name.sh", files={"files": "/srv"}, @MORE@)
def test_it(vm_with_ports):
    said = vm_with_ports.run("cat /tmp/said; cat /srv/*").stdout_bytes
    assert said == b"caf\xe9 \xe2\x82\xac\nin a file", said
    assert False, "the reports are written"
"""


@pytest.mark.parametrize("more", ["", "allow_network=True"], ids=["usernet", "gvproxy"])
@pytest.mark.slow_as("gvproxy")
def test_a_vm_lives_below_folders_of_any_name_in_a_locale_without_characters(
    pytester, monkeypatch, gvproxy_089, more
):
    # Short: it has to leave room for sockets. Below it the nastiest that it can be called.
    short = Path("/tmp") / f"{os.getpid()}{EVERYTHING}"
    root = pytester.path / f"root {EVERYTHING}"
    (root / "files").mkdir(parents=True)
    (root / "files" / os.fsdecode(b"\xff b,c\n%41")).write_text("in a file")
    script = b"echo 'caf\xe9 \xe2\x82\xac' >/tmp/said; nc -lk -p 8080 -e cat &\n"
    (root / "setup, of any % name.sh").write_bytes(script)
    (root / "test_it.py").write_text(TEST.replace("@MORE@", more), "utf-8")
    for name in [name for name in os.environ if name.startswith("LC_")]:
        monkeypatch.delenv(name)
    values = {
        "TMPDIR": short, "VMPORTS_CACHE_DIR": os.fsencode(short / "cache") + b"\xff",
        "LC_ALL": "C", "PYTHONUTF8": "0", "VMPORTS_ARTIFACTS": short / "artifacts",
        "VMPORTS_GVPROXY": gvproxy_089,
    }  # fmt: skip
    for name, value in values.items():
        monkeypatch.setenv(name, os.fsdecode(value))
    short.mkdir()
    try:
        monkeypatch.chdir(root)
        done = pytester.run(
            sys.executable, "-X", "utf8=0", "-m", "pytest", "-p", "no:randomly", "--rootdir", root
        )
        done.assert_outcomes(failed=1)
        done.stdout.fnmatch_lines(["*the reports are written*"])
        assert "INTERNALERROR" not in str(done.stdout)
        (artifacts,) = [one for one in (short / "artifacts").iterdir() if one.name != "initrds"]
        assert {"console.log", "vm.json", "qemu.sh"} <= {one.name for one in artifacts.iterdir()}
        assert '"failed": []' in (artifacts / "vm.json").read_text("utf-8")
        # The template was saved, and the clone's sockets were where TMPDIR says.
        made = os.fsencode(short)
        assert any(len(name) == KEY_LENGTH for name in os.listdir(made + b"/cache\xff"))
        assert any(name.endswith(b"-run") for name in os.listdir(made))
        assert ", booted, " not in str(done.stdout)
    finally:
        shutil.rmtree(short)
