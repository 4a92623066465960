"""Write the tree of the package into docs/contributing.md; with --check, only see that it is so."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from _written import write_or_check

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "pytest_vmports"
PAGE = ROOT / "docs" / "contributing.md"
BEGIN, END = "<!-- house: scripts/house_tree.py -->\n", "<!-- end of house -->\n"


def purpose(module: Path) -> str:
    """Return the first sentence of a module's docstring, on one line, without code's quotes."""
    text = ast.get_docstring(ast.parse(module.read_text())) or ""
    return text.partition("\n\n")[0].replace("\n", " ").replace("``", "").replace("`", "")


def rows() -> list[str]:
    """Return the tree's lines: rooms from the top of the house down, and what lies beside them."""
    sys.path.insert(0, str(ROOT / "tests"))
    from test_house import ROOMS

    found = []
    for room in reversed(ROOMS):
        folder = PACKAGE / room
        if not folder.is_dir():
            found.append(f"{room}.py: {purpose(folder.with_suffix('.py'))}")
            continue
        found.append(f"{room}/: {purpose(folder / '__init__.py')}")
        for module in sorted(folder.rglob("*.py")):
            name = module.relative_to(folder).as_posix()
            if name != "__init__.py":
                found.append(f"    {name.removesuffix('__init__.py')}: {purpose(module)}")
    return found


def page(old: str) -> str:
    """Return the page with the tree as it is."""
    before, _, rest = old.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + "\n```\n" + "\n".join(rows()) + "\n```\n\n" + END + after


if __name__ == "__main__":
    raise SystemExit(write_or_check(PAGE, page))
