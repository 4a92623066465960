"""Write the page's table of settings from the one in the code; ``--check`` only compares."""

from pathlib import Path

from _written import between, write_or_check

from pytest_vmports.settings.table import OPTIONS

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"


def table() -> str:
    """Return the table in Markdown."""
    rows = ["| setting | default | what it is |", "|---|---|---|"]
    for option in OPTIONS:
        default = f"`{option.default}`" if option.default not in {None, ""} else ""
        note = "" if option.marker else " (not in a marker)"
        rows.append(f"| `{option.name}` | {default} | {option.help}{note} |")
    return "\n".join(rows) + "\n"


def page(old: str) -> str:
    """Return the page with the table as it has to be."""
    return between("settings").sub(lambda _: table(), old)


if __name__ == "__main__":
    raise SystemExit(write_or_check(PAGE, page))
