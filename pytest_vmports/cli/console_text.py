"""A guest's console for a terminal, in pieces as they come: nothing in it but text and colours."""

from __future__ import annotations

import re

from pytest_vmports.errors.shown import LOOK_BACK, RESET, following, is_colour

# ECMA-48's control sequences and escape sequences; an odd line end.
_TOKEN = re.compile(
    r"\x1b\[[0-?]{0,40}(?P<final>[@-~])|\x1b(?P<plain>[ -/]?[0-~])|(?P<end>\r*\n|\r+)"
)
# What may be the begin of one that goes on in the next piece.
_BEGUN = re.compile(r"(?:\x1b(?:\[[0-?]{0,40}|[ -/]?)|\r+)\Z")
_LONGEST_BEGIN = 64
# They place the cursor, erase, scroll or choose a set of letters, which is of no use in a line that
# we begin: left out. All others, as those that have the terminal answer, are shown for what they
# are.
_PLACING = re.compile(r"[@A-HJ-MPSTXZ`abdefhlr78=>c]|[()*+][0-9A-Z]")


class ConsoleText:
    """Makes a console's pieces fit to be shown; each of its lines begins with ``| ``.

    Args:
        colours: they stay; else they are left out.
    """

    def __init__(self, *, colours: bool) -> None:
        self._colours = colours
        self._rest = ""
        self._line = ""
        """The end of the line that is being written; "" at its begin."""

    def feed(self, piece: str) -> str:
        """Return what is to be written for one more piece."""
        text = self._rest + piece
        # Not in all of it: a search tries each of many line ends, each up to the last.
        begun = _BEGUN.search(text, max(0, len(text) - _LONGEST_BEGIN))
        self._rest = "" if begun is None else begun[0]
        return self._shown(text[: len(text) - len(self._rest)])

    def end(self) -> str:
        """Return what is to be written at the console's end."""
        shown = self._shown(self._rest.rstrip("\r"))
        self._rest = ""
        return shown + ("\n" if self._line else "") + (RESET if self._colours else "")

    def _shown(self, text: str) -> str:
        parts, at = [], 0
        for token in _TOKEN.finditer(text):
            parts += [self._text(text[at : token.start()]), self._token(token)]
            at = token.end()
        return "".join([*parts, self._text(text[at:])])

    def _token(self, token: re.Match[str]) -> str:
        if token["end"] is not None:
            begin, self._line = "" if self._line else "|", ""
            return f"{begin}\n"
        if is_colour(token[0]):
            return token[0] if self._colours else ""
        places = _PLACING.fullmatch(token["plain"] or token["final"])
        return "" if places else self._text(token[0])

    def _text(self, text: str) -> str:
        if not text:
            return ""
        begin = "" if self._line else "| "
        line = self._line or begin
        shown = following(line, text)
        self._line = f"{line}{shown}"[-LOOK_BACK:]
        return begin + shown
