"""What a release needs of the version's and the changelog's words.

python scripts/release.py check v1.2.3   refuse a tag that the code or the changelog contradicts
python scripts/release.py notes v1.2.3   print what changed in it
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def version() -> str:
    """Return the version that the code says."""
    code = (ROOT / "pytest_vmports" / "__init__.py").read_text()
    return re.search(r'^__version__ = "(.+)"$', code, re.MULTILINE)[1]


def notes(number: str) -> str:
    """Return what the changelog says of a version; refuse one without a date."""
    sections = re.split(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    found = dict(zip(sections[1::2], sections[2::2], strict=True))
    (heading,) = [one for one in found if one.split()[0] == number] or [""]
    if not re.fullmatch(r"\S+ \(\d{4}-\d\d-\d\d\)", heading):
        raise SystemExit(f"CHANGELOG.md has no heading like '## {number} (2027-01-31)'")
    return found[heading].strip()


def main(command: str, tag: str) -> None:
    """Do what a command says."""
    number = tag.removeprefix("v")
    if tag != f"v{version()}":
        raise SystemExit(f"the tag is {tag}, and pytest_vmports/__init__.py says {version()}")
    text = notes(number)
    if command == "notes":
        print(text)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in {"check", "notes"}:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
