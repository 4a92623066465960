"""Write the tables of docs/compatibility.md from the results; ``--check`` only compares."""

import json
import re
import string
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "matrix"))

from _written import between, write_or_check  # noqa: E402
from cases import CASES, NEWEST, PYTESTS, PYTHONS, XDISTS  # noqa: E402

PAGE = ROOT / "docs" / "compatibility.md"
RESULTS = ROOT / "tests" / "matrix" / "results.json"
UNTRIED = "not tried here"


def row(*cells: str) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in cells)} |"


def places(results: dict) -> dict[tuple[str, str], str]:
    """Return a letter for each day and kind of machine."""
    found = sorted({(one["date"], one["machine"]) for one in results.values()})
    return dict(zip(found, string.ascii_lowercase, strict=False))


def where(results: dict, *tried: dict | None) -> str:
    """Return the letters of some results."""
    letters = places(results)
    return " ".join(sorted({letters[one["date"], one["machine"]] for one in tried if one}))


def machines(results: dict) -> list[str]:
    """Return when and on what kind of machine all this was."""
    return [f"- {letter}: {date}, {machine}" for (date, machine), letter in places(results).items()]


def pythons(results: dict) -> list[str]:
    """Return the rows of Python and pytest, with a column for each xdist."""
    head = ["Python", "pytest", *(f"xdist {one}" for one in XDISTS), "on"]
    rows = [row(*head), "|---" * len(head) + "|"]
    for python in PYTHONS:
        for pytest in PYTESTS:
            tried = [results.get(f"core {python} {pytest} {xdist}") for xdist in XDISTS]
            cells, one = [python, pytest], next(filter(None, tried), None)
            if one:
                cells = [f"{python} ({one['python']})", f"{pytest} ({one['versions']['pytest']})"]
            for result in tried:
                version = f" ({result['versions']['pytest-xdist']})" if result else ""
                cells.append((result["outcome"] if result else UNTRIED) + version)
            rows.append(row(*cells, where(results, *tried)))
    return rows


def plugins(results: dict) -> list[str]:
    """Return a row for each plugin, tool and library."""
    head = ["with", "version", "Python", "what was tried", "outcome", "on", "remarks"]
    rows = [row(*head), "|---" * len(head) + "|"]
    for name, case in CASES.items():
        result = results.get(f"plugin {name}")
        package = re.match(r"[\w.-]+", case.packages[0])[0]
        version = result["versions"][package] if result else NEWEST
        python = result["python"] if result else ""
        outcome = result["outcome"] if result else UNTRIED
        rows.append(
            row(package, version, python, case.tried, outcome, where(results, result), case.remark)
        )
    return rows


def page(old: str) -> str:
    """Return the page with its tables as the results have them."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    tables = {"pythons": pythons, "plugins": plugins, "machines": machines}
    for name, lines in tables.items():
        text = "\n".join([*lines(results), ""])
        old = between(name).sub(lambda _, text=text: text, old)
    return old


if __name__ == "__main__":
    raise SystemExit(write_or_check(PAGE, page))
