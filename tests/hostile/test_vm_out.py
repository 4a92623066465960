"""A real guest that writes all of them to its console: what its failing test's report holds."""

from __future__ import annotations

import re
import sys

from heeded import HOSTILE, heeded

SUITE = """
import json
from pathlib import Path

import pytest

@pytest.mark.vmports(setup="true", fresh_boot=False)
def test_it(vm_with_ports):
    words = Path("words").read_bytes()
    said = vm_with_ports.run("cat", input=words)
    vm_with_ports.run("cat >/dev/console", input=words)
    assert said.stdout_bytes == words  # a test gets them as they are
    print(said.stdout)
    vm_with_ports.run("cat >&2; false", input=words)
"""


def test_no_words_of_a_real_guest_are_obeyed_in_a_report(pytester, shared_templates, qemu_binary):
    words = "\n".join(words for words, _ in HOSTILE.values())
    (pytester.path / "words").write_bytes(words.encode("utf-8", "surrogateescape") + b"\nend\n")
    pytester.makepyfile(SUITE)
    command = [sys.executable, "-m", "pytest", "--color=no", "-vv", "--vmports-console"]
    result = pytester.run(*command)
    result.assert_outcomes(failed=1)
    text = result.stdout.str() + result.stderr.str()
    found = heeded(text, colours=True)
    assert not found, ascii(found[:5])
    console = text.partition("end of the guest's console")[2]
    for name, (_, readable) in HOSTILE.items():
        assert readable.split("\n")[-1] in text, name
    lines = re.findall(r"^\|.*add-mask::e$", console, re.MULTILINE)
    assert set(lines) == {r"| :\:add-mask::e"}
