"""The pages' examples, run as they stand there."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.mark.parametrize("page", ["vm.md"])
def test_the_examples_of_a_page_work(page, pytester, qemu_binary):
    examples = re.findall(
        r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL
    )
    pytester.makepyfile(**{f"test_{n}": text for n, text in enumerate(examples)})
    outcomes = pytester.runpytest_subprocess("-p", "no:cacheprovider").parseoutcomes()
    assert set(outcomes) == {"passed"}
