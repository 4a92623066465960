"""Write the tables of docs/compatibility.md from the results; ``--check`` only compares."""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "matrix"))

from cases import CASES, NEWEST, PYTESTS, PYTHONS, XDISTS  # noqa: E402

PAGE = ROOT / "docs" / "compatibility.md"
RESULTS = ROOT / "tests" / "matrix" / "results.json"
UNTRIED = "not tried here"


def between(name: str) -> re.Pattern[str]:
    """Return what finds the place of a table in the page."""
    return re.compile(rf"(?<=<!-- {name} -->\n).*(?=<!-- /{name} -->)", re.DOTALL)


def said(text: str) -> str:
    """Return a text for a cell of a table."""
    return " ".join(text.split()).replace("|", r"\|")


def outcome(result: dict | None) -> str:
    """Return how it came out."""
    return UNTRIED if result is None else said(result["outcome"])


def pythons(results: dict) -> list[str]:
    """Return the rows of Python and pytest, with a column for each xdist."""
    rows = ["| Python | pytest | " + " | ".join(f"xdist {one}" for one in XDISTS) + " |"]
    rows.append("|---" * (2 + len(XDISTS)) + "|")
    for python in PYTHONS:
        for pytest in PYTESTS:
            tried = {xdist: results.get(f"core {python} {pytest} {xdist}") for xdist in XDISTS}
            one = next(filter(None, tried.values()), None)
            cells = [one["python"], one["versions"]["pytest"]] if one else [python, pytest]
            for result in tried.values():
                version = f" ({result['versions']['pytest-xdist']})" if result else ""
                cells.append(outcome(result) + version)
            rows.append(f"| {' | '.join(cells)} |")
    return rows


def plugins(results: dict) -> list[str]:
    """Return a row for each plugin, tool and library."""
    rows = [
        "| with | version | Python | what was tried | outcome | remarks |",
        "|---|---|---|---|---|---|",
    ]
    for name, case in CASES.items():
        result = results.get(f"plugin {name}")
        package = re.match(r"[\w.-]+", case.packages[0])[0]
        version = result["versions"][package] if result else NEWEST
        python = result["python"] if result else ""
        cells = [package, version, python, case.tried, outcome(result), case.remark]
        rows.append(f"| {' | '.join(map(said, cells[:-2]))} | {cells[-2]} | {said(cells[-1])} |")
    return rows


def machines(results: dict) -> list[str]:
    """Return when and on what kind of machine all this was."""
    found = sorted({(one["machine"], one["date"]) for one in results.values()})
    return [f"- {date}, {machine}" for machine, date in found]


def page(old: str) -> str:
    """Return the page with its tables as the results have them."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    tables = {"pythons": pythons, "plugins": plugins, "machines": machines}
    for name, lines in tables.items():
        text = "\n".join([*lines(results), ""])
        old = between(name).sub(lambda _, text=text: text, old)
    return old


def main() -> int:
    """Return 1 when ``--check`` finds the page out of date."""
    old = PAGE.read_text()
    new = page(old)
    if "--check" in sys.argv[1:]:
        return int(old != new)
    PAGE.write_text(new)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
