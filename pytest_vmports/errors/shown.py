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
import unicodedata

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
# Marks above and below one letter, of which no script has as many: more cover the lines around.
_MARKS = {"Mn", "Me"}
_MOST_MARKS = 8
# Each match is followed by a backslash. Who obeys them: ##[...] GitHub's runner and ##vso[...]
# Azure's agent, anywhere in a line (sources: their ActionCommand.cs and Command.cs);
# ##teamcity[...] TeamCity and JetBrains' IDEs; section_start: GitLab; travis_fold: Travis;
# <CTest... and <Dart... ctest, [[ATTACHMENT|...]] Jenkins, GitLab and Azure in JUnit's XML: they
# upload the file that is named there; <LAVA_SIGNAL_... LAVA, which notes a test's result. And a
# line that begins with ::word::, behind blanks too: GitHub's runner, Gitea's and act.
_OBEYED = re.compile(
    r"#(?=#[^\s\[]{0,40}\[)|section(?=_(?:start|end):)|travis(?=_(?:fold|time):)"
    r"|<(?=/?(?:CTest|Dart)[A-Z]|LAVA_SIGNAL_)|\[\[(?=ATTACHMENT\|)"
    r"|^[^\S\n]*:(?=:\w[^\n]*::)",
    re.MULTILINE,
)
# Where somebody wraps it, it begins a line wherever it stands. That another sign follows is not
# asked of each, which would go over a line as often as a guest likes.
_ONCE_WRAPPED = re.compile(r":(?=:\w)")
_SIGNS = 2
# The same where a line is made piece by piece and begins with a sign of ours: the places before
# what makes such a word whole, whatever comes then.
_WHOLE = re.compile(
    r"(?<=#)(?=#)|(?:(?<=section_start)|(?<=section_end)|(?<=travis_fold)|(?<=travis_time))(?=:)"
    r"|(?:(?<=<CTest)|(?<=<Dart)|(?<=</CTest)|(?<=</Dart))(?=[A-Z])|(?<=<LAVA_SIGNAL)(?=_)"
    r"|(?<=\[\[ATTACHMENT)(?=\|)"
)
LOOK_BACK = 16
"""So much of what a line holds already tells what `following` makes of more."""
_COLOUR = re.compile(r"(\x1b\[[0-9;:]{0,40}m)")
# Colours by number or by red, green and blue: these numbers mean nothing else. Exactly so many: one
# more is an order of its own. 58 is a colour to some terminals only, and to others what follows is.
_ANY_COLOUR = re.compile(r"(?<![\d:])[34]8(?:;5;\d*|;2(?:;\d*){3}|:5:\d*|:2(?::\d*){3,6})(?![\d:])")
RESET = "\x1b[0m"


def printable(text: str) -> str:
    """Return a text that does nothing but be read, wherever it is written; safe to do again.

    Line ends and tabs stay. A file's name may hold bytes that are no UTF-8, which Python keeps as
    lone surrogates: they are escaped too.
    """
    return _OBEYED.sub(r"\g<0>\\", escaped(text))


def wrappable(text: str) -> str:
    """Return a text as `printable` does, whose lines may be broken anywhere: pytest's reasons."""
    text = printable(text)
    return text if text.count("::") < _SIGNS else _ONCE_WRAPPED.sub(r"\g<0>\\", text)


def quoted(text: str) -> str:
    """Return the lines of a guest, or of a program that may repeat its words, as `printable`."""
    lines = printable(text).split("\n")
    return "\n".join(f"{_QUOTE} {line}" if line else _QUOTE for line in lines)


def following(line: str, text: str) -> str:
    """Return what is to be shown of a text behind that of a line which is shown already.

    Args:
        line: of it at least the last `LOOK_BACK` letters; it begins with a sign of ours.
        text: more of that line.
    """
    before = line if escaped(line) == line else f"_{line[1:]}"  # cut behind what it belongs to
    return _WHOLE.sub(r"\\", escaped(before + text))[len(before) :]


def within(text: str) -> str:
    """Return what `quoted` does for the rest of a line of ours, and lines that follow it."""
    return quoted(text).removeprefix(_QUOTE).removeprefix(" ")


def escaped(text: str) -> str:
    """Return a text in which all can be seen, and nothing moves a terminal's cursor."""
    return text if _only_seen(text) else _ODD.sub(_Escape(), text)


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


class _Escape:
    """Escapes what cannot be seen, and of the marks at one letter those that are too many."""

    def __init__(self) -> None:
        self._marks, self._end = 0, 0

    def __call__(self, match: re.Match[str]) -> str:
        character, before = match[0], match.string[max(0, match.start() - 1) : match.start()]
        seen = _seen(character)
        if character in _SELECTORS:
            seen = _seen(before) and not before.isascii()
        if unicodedata.category(character) not in _MARKS:
            self._marks = 0
        else:
            self._marks = self._marks + 1 if match.start() == self._end else 1
        self._end = match.end()
        if seen and self._marks <= _MOST_MARKS:
            return character
        self._marks = 0
        return character.encode("unicode_escape").decode()


def _seen(character: str) -> bool:
    return character.isprintable() and _HIDDEN.match(character) is None
