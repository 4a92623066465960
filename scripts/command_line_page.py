"""Write the page on the command line from the code that reads it; ``--check`` only compares."""

import argparse
from pathlib import Path

from _written import write_or_check

from pytest_vmports.cli.main import command_line

PAGE = Path(__file__).parents[1] / "docs" / "command-line.md"
HEAD = """\
# Command line

`pytest-vmports` looks at what tests with VMs leave on a machine, and at what it offers them.
`pytest-vmports COMMAND --help` says the same as this page.

The exit status is 0 when all is well, 1 when something is wrong, and 2 when a word is misspelled
or no VM can be started. Options of pytest, as `--vmports-report`, are [settings](settings.md).
"""


def page() -> str:
    """Return the page."""
    (commands,) = [one for one in command_line()._actions if one.choices]
    briefs = {one.dest: one.help for one in commands._choices_actions}
    sections = [_section(name, briefs[name], one) for name, one in commands.choices.items()]
    return HEAD + "".join(sections)


def _section(name: str, brief: str, command: argparse.ArgumentParser) -> str:
    rows = [
        f"| `{_written(one)}` | {(one.help or '').replace('|', '&#124;')} |\n"
        for one in command._actions if one.dest != "help"
    ]  # fmt: skip
    table = "".join(["\n| word | what it is |\n|---|---|\n", *rows]) if rows else ""
    return f"\n## pytest-vmports {name}\n{brief[0].upper()}{brief[1:]}.\n{table}"


def _written(action: argparse.Action) -> str:
    words = "|".join(action.choices) if action.choices else action.metavar or action.dest
    if not action.option_strings:
        return words.replace("|", " or ")
    flag = max(action.option_strings, key=len)
    return flag if action.nargs == 0 else f"{flag} {words}".replace("|", " or ")


if __name__ == "__main__":
    raise SystemExit(write_or_check(PAGE, lambda _: page()))
