"""What the pages say of files, tests and each other is there."""

import os
import re
from pathlib import Path

import pytest
from pages import blocks

ROOT = Path(__file__).resolve().parents[1]
PROJECTS = [page.parent for page in (ROOT / "examples").glob("[!.]*/README.md")]
PAGES = [
    ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "pytest_vmports" / "errors.md",
    *(ROOT / "docs").rglob("*.md"), *(folder / "README.md" for folder in PROJECTS),
]  # fmt: skip
# Where the package's page leads, and the pages of the site that stand elsewhere than in docs/.
SITE = re.search(r'^Homepage = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
ELSEWHERE = {
    "errors": "pytest_vmports/errors.md", "changelog": "CHANGELOG.md",
    "report-a-fault": "SECURITY.md",
}  # fmt: skip
# What a reader may make, the reader's own, and others'.
MADE_UP = {
    "network/passt.py",
    "vm/inside/iso.py",
    "test_app.py",
    "test_login.py",
    "NAME.svg",
    "pathlib.py",
    # A GitLab runner's.
    "config.toml",
    # Linux's.
    "kernel/panic.c",
    "drivers/tty/sysrq.c",
}
FOLDERS = ("pytest_vmports", "tests", "docs", "scripts", "benchmarks", "examples")


def name_of(page: Path) -> str:
    """Return what a test of a page is called: the examples' pages have one name."""
    return f"{page.parent.name}-{page.name}" if page.parent in PROJECTS else page.name


def text_of(page: Path) -> str:
    """Return a page without its programs and configurations, which name files of their own."""
    return re.sub(
        r"^ *```(?:python|yaml|ini|toml|sh|console)\b.*?^ *```$",
        "",
        page.read_text(),
        flags=re.DOTALL | re.MULTILINE,
    )


def sections_of(page: Path) -> set[str]:
    """Return the addresses that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ +(.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", one.lower()).strip().replace(" ", "-") for one in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_link_leads_to_a_file_and_a_section(page):
    wrong = []
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text_of(page)):
        file, _, section = link.partition("#")
        target = page.parent / file if file else page
        if not target.exists() or (section and section not in sections_of(target)):
            wrong.append(link)
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_file_that_is_named_is_there(page):
    text = re.sub(r"https?://[^\s)]+", "", text_of(page))
    named = set(re.findall(r"(?<![\w.-])\w[\w/-]*\.(?:py|md|c|svg|toml)\b", text))
    files = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*.*")]
    there = [f"/{file.relative_to(ROOT)}" for file in [*files, *ROOT.glob("*.*")]]
    there += [f"/{one.title}" for one in blocks(page)]
    found = {name for name in named if any(file.endswith(f"/{name}") for file in there)}
    assert named - MADE_UP - found == set()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_test_that_is_named_is_there(page):
    named = set(re.findall(r"\btest_\w+\b", text_of(page)))
    files = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]
    there = {name for file in files for name in re.findall(r"def (test_\w+)", file.read_text())}
    modules = {Path(file).stem for file in [*files, *MADE_UP]}
    modules |= {Path(one.title).stem for one in blocks(page)}
    assert named - there - modules == set()


def test_the_package_s_page_leads_to_pages_that_are_there():
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text())
    assert all(link.startswith(SITE) for link in links)  # a relative one is dead on that page
    assert len(links) > 20
    dead = []
    for link in links:
        path = link.removeprefix(SITE)
        name = path.strip("/")
        source = f"docs/{name}" if "." in name else ELSEWHERE.get(name, f"docs/{name}.md")
        if not (ROOT / source).exists() or ("." in name) == path.endswith("/"):
            dead.append(link)
    assert dead == []


def tables(page: Path) -> dict[str, list[list[str]]]:
    """Return the rows of each table of a page, without its head, by the titles of its columns."""
    found: dict[str, list[list[str]]] = {}
    for table in re.findall(r"(?:^\|.*\|\n)+", page.read_text(), re.MULTILINE):
        head, _, *rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in
                          table.splitlines()]  # fmt: skip
        found.setdefault(" | ".join(head), []).extend(rows)
    return found


def test_each_promise_names_a_test_that_is_there():
    rows = tables(ROOT / "docs" / "security.md")["promise | shown by"]
    assert len(rows) >= 20
    wrong = []
    for promise, shown_by in rows:
        named = re.findall(r"`([\w/]+\.py)::((?:Test\w+::)?)(test_\w+)`", shown_by)
        if not named or shown_by.count("`") != 2 * len(named):
            wrong.append(promise)
        for file, group, name in named:
            path = ROOT / "tests" / file
            code = path.read_text() if path.exists() else ""
            held = re.search(rf"^{'    ' if group else ''}def {name}\(", code, re.MULTILINE)
            if held is None or (group and f"class {group[:-2]}:" not in code):
                wrong.append(f"{file}::{group}{name}")
    assert wrong == []


@pytest.mark.parametrize("folder", PROJECTS, ids=lambda folder: folder.name)
def test_an_example_is_a_project_of_its_own_that_the_slow_tests_run(folder):
    assert {"README.md", "pytest.ini", "requirements.txt"} <= set(os.listdir(folder))
    # What has no dash is run with the examples of the folder above.
    assert "-" in folder.name
    assert f'run("{folder.name}"' in (ROOT / "tests" / "vm" / "test_vm_examples.py").read_text()
    assert f"examples/{folder.name})" in (ROOT / "docs" / "examples.md").read_text()
