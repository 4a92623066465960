"""Names of tests, guests and hosts as a part of XML or HTML, in which nothing is obeyed."""

from __future__ import annotations

import html


def escaped(text: str) -> str:
    """Return a text for XML, in which most control characters must not be, however escaped."""
    return html.escape("".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text))


def seconds(value: float) -> str:
    """Return seconds as people read them."""
    return f"{value:.2f} s" if value < 100 else f"{value:.0f} s"  # noqa: PLR2004 - five signs
