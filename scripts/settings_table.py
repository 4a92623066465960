"""Write the page's table of settings from the one in the code; ``--check`` only compares."""

import re
import sys
from pathlib import Path

from pytest_vmports.settings.table import OPTIONS

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
BETWEEN = re.compile(r"(?<=<!-- settings -->\n).*(?=<!-- /settings -->)", re.DOTALL)


def table() -> str:
    """Return the table in Markdown."""
    rows = ["| setting | default | what it is |", "|---|---|---|"]
    for option in OPTIONS:
        default = f"`{option.default}`" if option.default not in {None, ""} else ""
        note = "" if option.marker else " (not in a marker)"
        rows.append(f"| `{option.name}` | {default} | {option.help}{note} |")
    return "\n".join(rows) + "\n"


def main() -> int:
    """Return 1 when ``--check`` finds the page out of date."""
    old = PAGE.read_text()
    new = BETWEEN.sub(lambda _: table(), old)
    if "--check" in sys.argv[1:]:
        return int(old != new)
    PAGE.write_text(new)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
