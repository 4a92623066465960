"""pytest-vmports explain: what an error means and what to do, from the catalogue in the package."""

from __future__ import annotations

import difflib
import re
import sys
from importlib import resources

# To another section, or to a page that is not in the package.
_LINK = re.compile(r"\[([^\]]+)\]\((?:\.\./)?([^)#]*)(?:#[^)]*)?\)")


def explain(name: str | None) -> int:
    """Write the section of one error, or the names of all; return the exit status.

    Args:
        name: as an error's message ends with, as ``port-in-use``, or its class,
            as ``PortInUseError``.
    """
    told = sections()
    if name is None:
        sys.stdout.write("".join(f"{one}\n" for one in told))
        return 0
    wanted = _plain(name)
    found = next((one for one in told if _plain(one) == wanted), None)
    if found is None:
        near = difflib.get_close_matches(wanted, map(_plain, told), n=3, cutoff=0.5)
        meant = ", ".join(one for one in told if _plain(one) in near)
        hint = f"did you mean {meant}?" if meant else "pytest-vmports explain lists all"
        sys.stderr.write(f"pytest-vmports: no error is called {name}; {hint}\n")
        return 2
    sys.stdout.write(f"{found}\n\n{_LINK.sub(_place, told[found]).strip()}\n")
    return 0


def sections() -> dict[str, str]:
    """Return the catalogue: the text of each error by its name."""
    page = (resources.files("pytest_vmports") / "errors.md").read_text(encoding="utf-8")
    found = {}
    for section in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        name, _, text = section.partition("\n")
        found[name.strip()] = text
    return found


def _place(link: re.Match[str]) -> str:
    """Return a link as text: a terminal cannot follow it."""
    text, page = link.groups()
    return f"{page} of the project's sources" if page else text


def _plain(name: str) -> str:
    """Return a name without what people write it differently with, its end "Error" among it."""
    # Also a qualified class, and the address that older messages ended with.
    last = re.split(r"[.#](?!md)", name.strip("[] "))[-1]
    letters = re.sub(r"[^a-z]", "", last.rpartition("explain ")[2].lower())
    return letters.removesuffix("error") or letters
