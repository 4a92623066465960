"""A run as one drawing in SVG, which needs nothing else and folds nothing.

It follows the light or dark setting of the reader, and tells details under the pointer by the
``title`` of SVG.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pytest_vmports.report.chart import COLOURS, KINDS, colour_of
from pytest_vmports.report.markup import escaped, seconds
from pytest_vmports.report.recorded import NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_vmports.report.chart import Bar, Chart, Row

_LEFT, _RIGHT, _TOP, _LANE, _TEST, _PORT, _GAP = 400, 20, 46, 16, 14, 8, 10
_NARROWEST, _WIDEST, _PER_TEST = 1200, 6000, 4
_LONGEST: Final = 44
_VM_KINDS: Final = {"template", "starting", "ready"}
_STYLE = """
svg { --ink: #222; --paper: #fff; --faint: #ddd; font: 11px system-ui, sans-serif; }
svg { background: var(--paper); }
@media (prefers-color-scheme: dark) { svg { --ink: #ddd; --paper: #161616; --faint: #3a3a3a; } }
text { fill: var(--ink); } line { stroke: var(--faint); } .end { text-anchor: end; }
.failed { stroke: var(--ink); stroke-width: 1.5; } rect:hover { opacity: 0.6; }
""" + "".join(f".{kind} {{ fill: {colour}; }}\n" for kind, colour in COLOURS.items())


def svg_of(chart: Chart, record: str) -> str:
    """Return the drawing, complete in itself.

    Args:
        chart: what it shows.
        record: what it was made of, packed; nobody sees it.
    """
    return "".join(_drawing(chart, record))


def _drawing(chart: Chart, record: str) -> Iterator[str]:
    rows = [(row, _LANE, _GAP) for row in chart.workers]
    rows += [(row, _TEST, 2) for row in chart.tests]
    rows += [(row, _PORT, 0) for row in chart.ports]
    width = min(max(_NARROWEST, _PER_TEST * len(chart.tests)), _WIDEST)
    scale = (width - _LEFT - _RIGHT) / chart.seconds
    axis = _TOP + _GAP + sum(high + gap for _, high, gap in rows) + _GAP
    height = axis + _LANE * (len(chart.slowest) + 2)
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img"><style>{_STYLE}</style>'
        f'<metadata id="{NAME}">{record}</metadata>'
    )
    yield _text(4, 15, chart.heading)
    yield from _legend(chart)
    yield from _axis(chart, scale, axis)
    top = _TOP + _GAP
    for row, high, gap in rows:
        yield from _row(row, chart, scale, top, high)
        top += high + gap
    yield from _slowest(chart, axis)
    yield "</svg>\n"


def _legend(chart: Chart) -> Iterator[str]:
    left = _LEFT
    for kind in chart.kinds():
        yield f'<rect class="{kind}" x="{left}" y="6" width="10" height="10"/>'
        yield _text(left + 14, 15, KINDS[kind])
        left += 30 + 6 * len(KINDS[kind])


def _axis(chart: Chart, scale: float, height: int) -> Iterator[str]:
    for tick in chart.ticks():
        x = _LEFT + tick * scale
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 4}" y2="{height}"/>'
        yield _text(x + 2, _TOP - 6, f"{tick:g} s")


def _row(row: Row, chart: Chart, scale: float, top: int, high: int) -> Iterator[str]:
    size, foot = (7, top + high - 1) if high == _PORT else (11, top + high - 4)
    # The end of a test's id tells more than its begin.
    name = row.name if len(row.name) <= _LONGEST else f"…{row.name[1 - _LONGEST :]}"
    yield _text(4, foot, name, size)
    if row.outcome:
        kind, said = colour_of(row.outcome), f"{row.outcome} {seconds(row.took)}"
        yield f'<rect class="{kind}" x="{_LEFT - 12}" y="{top + 2}" width="7" height="7"/>'
        yield _text(_LEFT - 18, foot, said, size, ' class="end"')
    half = (high - 2) // 2
    for bar in row.bars:
        left = _LEFT + (bar.begin - chart.begin) * scale
        wide = max(bar.seconds * scale, 1)
        own = top + (half if row.outcome and bar.kind in _VM_KINDS else 0)
        yield (
            f'<rect class="{bar.kind}" x="{left:.1f}" y="{own}" width="{wide:.1f}" '
            f'height="{half if row.outcome else high - 2}">{_title(bar, chart)}</rect>'
        )


def _title(bar: Bar, chart: Chart) -> str:
    """Return what the pointer tells: nothing in a test's own row that this does not show."""
    lines = [bar.said, "" if bar.of is None else chart.tests[bar.of].name]
    if bar.kind != "around":
        lines.append(f"{KINDS[bar.kind]}: {seconds(bar.seconds)}")
    return f"<title>{escaped(chr(10).join(filter(None, lines)))}</title>"


def _slowest(chart: Chart, top: int) -> Iterator[str]:
    if chart.slowest:
        yield _text(4, top + _LANE, "The slowest starts")
    for number, start in enumerate(chart.slowest, 2):
        never = " (never ready)" if start.failed else ""
        said = f"{seconds(start.seconds)}{never}: {start.of_it} — {start.vm}, {start.worker}"
        yield _text(14, top + number * _LANE, f"{said}, {start.test}")


def _text(left: float, top: float, text: str, size: int = 11, more: str = "") -> str:
    return f'<text x="{left:.1f}" y="{top:.1f}" font-size="{size}"{more}>{escaped(text)}</text>'
