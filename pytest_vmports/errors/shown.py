r"""What others chose to say, made fit to be shown: the one place where that is decided.

A guest's words reach people on a terminal, in a report, in a CI's log. There a control sequence is
obeyed by the terminal, and some words by the program that collects the log: it hides what follows,
sets a variable of the build, uploads a file. So control characters and what cannot be seen are
escaped as Python does, such words are broken by a backslash, and each line of a guest's begins
with ``| ``.

What a test gets as a value, as ``vm.console``, stays as it is.
"""

from __future__ import annotations

import re

_QUOTE = "|"
# What Python takes for printable and nobody sees; U+FE0E and U+FE0F stay where they tell how the
# character before them is drawn.
_UNSEEN = (
    "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0d\uffa0"
    "\U000e0100-\U000e01ef"
)
_ODD = re.compile(r"[^\n\t\x20-\x7e]")
_HIDDEN = re.compile(rf"[{_UNSEEN}\ufe0e\ufe0f]")
_SELECTORS = "\ufe0e\ufe0f"
# Each match is followed by a backslash. Who obeys them: ##[...] GitHub's runner and ##vso[...]
# Azure's agent, anywhere in a line (sources: their ActionCommand.cs and Command.cs);
# ##teamcity[...] TeamCity and JetBrains' IDEs; section_start: GitLab; travis_fold: Travis;
# <CTest... and <Dart... ctest, which uploads the file that is named between them. And a line that
# begins with ::word::, behind blanks too: GitHub's runner, Gitea's and act.
_OBEYED = re.compile(
    r"#(?=#[^\s\[]{0,40}\[)|section(?=_(?:start|end):)|travis(?=_(?:fold|time):)"
    r"|<(?=/?(?:CTest|Dart)[A-Z])|^[^\S\n]*:(?=:\w[^\n]*::)",
    re.MULTILINE,
)
_COLOUR = re.compile(r"(\x1b\[[0-9;:]{0,40}m)")
# Colours by number or by red, green and blue, whose numbers mean nothing else.
_ANY_COLOUR = re.compile(r"[345]8[;:](?:5[;:]\d*|2(?:[;:]\d*){3,5})")
RESET = "\x1b[0m"


def printable(text: str) -> str:
    """Return a text that does nothing but be read, wherever it is written; safe to do again.

    Line ends and tabs stay. A file's name may hold bytes that are no UTF-8, which Python keeps as
    lone surrogates: they are escaped too.
    """
    return _OBEYED.sub(r"\g<0>\\", escaped(text))


def quoted(text: str) -> str:
    """Return the lines of a guest, or of a program that may repeat its words, as `printable`."""
    lines = printable(text).split("\n")
    return "\n".join(f"{_QUOTE} {line}" if line else _QUOTE for line in lines)


def escaped(text: str) -> str:
    """Return a text in which all can be seen, and nothing moves a terminal's cursor."""
    return text if _only_seen(text) else _ODD.sub(_escaped, text)


def coloured(text: str) -> str:
    """Return a text as `printable` does, but in its own colours, which end with it."""
    parts = _COLOUR.split(text)
    bare = "".join(parts[::2])
    # A log may be rid of colours before its words are obeyed.
    if len(parts) == 1 or _OBEYED.search(escaped(bare)):
        return printable(bare)
    shown = (
        escaped(part) if number % 2 == 0 else part if is_colour(part) else RESET
        for number, part in enumerate(parts)
    )
    return f"{''.join(shown)}{RESET}"


def is_colour(sequence: str) -> bool:
    """Whether a control sequence changes only how text looks, which stays visible.

    8 hides it, and Jenkins looks for its own notes there.
    """
    if not _COLOUR.fullmatch(sequence):
        return False
    rest = _ANY_COLOUR.sub("", sequence[2:-1])
    return not any(number.lstrip("0") == "8" for number in re.split("[;:]", rest))


def _only_seen(text: str) -> bool:
    return text.isascii() and text.replace("\n", "").replace("\t", "").isprintable()


def _escaped(match: re.Match[str]) -> str:
    character, before = match[0], match.string[max(0, match.start() - 1) : match.start()]
    seen = _seen(before) and not before.isascii() if character in _SELECTORS else _seen(character)
    return character if seen else character.encode("unicode_escape").decode()


def _seen(character: str) -> bool:
    return character.isprintable() and _HIDDEN.match(character) is None
