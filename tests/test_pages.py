"""What the pages say of files, tests and each other is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "pytest_vmports" / "errors.md", *(ROOT / "docs").glob("*.md")]
# What a reader may make, the reader's own, and others'.
MADE_UP = {
    "network/passt.py",
    "vm/inside/iso.py",
    "test_app.py",
    "test_login.py",
    "NAME.svg",
    "pathlib.py",
    # Linux's.
    "kernel/panic.c",
    "drivers/tty/sysrq.c",
}
FOLDERS = ("pytest_vmports", "tests", "docs", "scripts", "benchmarks", "examples")


def text_of(page: Path) -> str:
    """Return a page without its programs and configurations, which name files of their own."""
    return re.sub(
        r"^```(?:python|yaml|ini)\n.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE
    )


def sections_of(page: Path) -> set[str]:
    """Return the addresses that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ +(.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", one.lower()).strip().replace(" ", "-") for one in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_link_leads_to_a_file_and_a_section(page):
    wrong = []
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text_of(page)):
        file, _, section = link.partition("#")
        target = page.parent / file if file else page
        if not target.exists() or (section and section not in sections_of(target)):
            wrong.append(link)
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_file_that_is_named_is_there(page):
    named = set(re.findall(r"(?<![\w.-])\w[\w/-]*\.(?:py|md|c|svg|toml)\b", text_of(page)))
    files = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*.*")]
    there = [f"/{file.relative_to(ROOT)}" for file in [*files, *ROOT.glob("*.*")]]
    found = {name for name in named if any(file.endswith(f"/{name}") for file in there)}
    assert named - MADE_UP - found == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_test_that_is_named_is_there(page):
    named = set(re.findall(r"\btest_\w+\b", text_of(page)))
    files = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]
    there = {name for file in files for name in re.findall(r"def (test_\w+)", file.read_text())}
    modules = {Path(file).stem for file in [*files, *MADE_UP]}
    assert named - there - modules == set()
