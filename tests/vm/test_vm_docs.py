"""The pages' examples, run as they stand there."""

import re
from pathlib import Path

import pytest

from pytest_vmports.guests.alpine import find_images

DOCS = Path(__file__).resolve().parents[2] / "docs"


# Each example has a guest of its own, and most boot more than once.
@pytest.mark.slow
@pytest.mark.parametrize("page", ["vm.md", "guests.md", "hardware.md"])
def test_the_examples_of_a_page_work(page, pytester, qemu_binary):
    """Those that begin with a file's name belong together, and to a guest that boots slowly."""
    examples = re.findall(
        r"^```python\n(?!# )(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL
    )
    (pytester.path / "app.conf").write_text("colour = blue\n")
    kernel, initrd = find_images()
    (pytester.path / "vmlinuz").symlink_to(kernel)
    (pytester.path / "initrd.img").symlink_to(initrd)
    pytester.makepyfile(**{f"test_{n}": text for n, text in enumerate(examples)})
    # Each example has a guest of its own, so a template of it would serve one test.
    words = ["-p", "no:cacheprovider", "--vmports-template=no"]
    outcomes = pytester.runpytest_subprocess(*words).parseoutcomes()
    assert set(outcomes) == {"passed"}
    assert outcomes["passed"] >= len(examples)
