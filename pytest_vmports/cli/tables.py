"""Rows on standard output: plain columns, which programs read too.

Where the extra ``rich`` is installed and standard output is a terminal: with colours and wrapped
cells.
"""

from __future__ import annotations

import importlib.util
import sys
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from pytest_vmports.system.mishaps import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


def write(
    rows: Iterable[Sequence[str]],
    *,
    header: Sequence[str] = (),
    styles: Mapping[str, str] | None = None,
) -> None:
    """Write rows of equally many cells; nothing where there are none.

    Args:
        rows: cells; of several lines as well.
        header: titles of the columns, or none.
        styles: how cells of exactly this text look, in rich's words.
    """
    # What is listed was noted by other runs, and may name what others chose.
    rows = [[printable(cell) for cell in row] for row in rows]
    if not rows:
        return
    if sys.stdout.isatty() and importlib.util.find_spec("rich") is not None:
        _write_rich(rows, header, styles or {})
    else:
        _write_plain([*([header] if header else []), *rows])


def minute(seconds: float) -> str:
    """Return a moment as people read it, of seconds since the epoch."""
    moment = datetime.fromtimestamp(seconds, timezone.utc).astimezone()
    return moment.strftime("%Y-%m-%d %H:%M")


def _write_plain(rows: Sequence[Sequence[str]]) -> None:
    *columns, _ = zip(*rows, strict=True)  # what is last needs no width
    widths = [max(map(len, column)) for column in columns]
    indent = "\n" + " " * (sum(widths) + 2 * len(widths))
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        cells.append(row[-1].replace("\n", indent))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")


def _write_rich(
    rows: Sequence[Sequence[str]], header: Sequence[str], styles: Mapping[str, str]
) -> None:
    from rich.console import Console  # noqa: PLC0415 - an extra
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, show_header=bool(header), header_style="bold", pad_edge=False)
    for title in header or [""] * len(rows[0]):
        table.add_column(title, overflow="fold")
    for row in rows:
        # As texts: a path or an error may hold what rich would take for markup.
        table.add_row(*(Text(cell, style=styles.get(cell, "")) for cell in row))
    Console().print(table)
