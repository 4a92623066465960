"""A run as a page of HTML, which needs nothing else, no program and no network.

Names and the time stay where they are while one scrolls; ports are folded below their test. What is
out of sight is not laid out, so that a thousand tests scroll as ten do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pytest_vmports.report.chart import COLOURS, KINDS, colour_of
from pytest_vmports.report.markup import escaped, seconds
from pytest_vmports.report.recorded import NAME

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_vmports.report.chart import Bar, Chart, Row, Start

_NARROWEST, _WIDEST, _PER_TEST = 600, 6000, 4
_CLASSES: Final = {
    "around": "a", "passed": "p", "failed": "f", "skipped": "s", "other": "o", "template": "m",
    "starting": "v", "ready": "u", "port": "h",
}  # fmt: skip
"""Short, for a page has thousands of them; the capital letters are those of the page itself."""
assert set(_CLASSES) == set(KINDS) == set(COLOURS)
_STYLE = """
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --faint: #ddd; --band: #f4f4f4 }
@media (prefers-color-scheme: dark) {
 :root { --ink: #ddd; --paper: #161616; --faint: #3a3a3a; --band: #222 } }
* { box-sizing: border-box }
body { margin: 0; height: 100vh; display: flex; flex-direction: column;
 font: 13px system-ui, sans-serif; background: var(--paper); color: var(--ink) }
header { padding: .5rem .75rem; max-height: 45vh; overflow: auto; flex: none }
header p { margin: 0 0 .4rem } header i { display: inline-block; width: .8em; height: .8em }
header span { margin-right: 1em; white-space: nowrap }
table { border-collapse: collapse; margin-top: .3rem }
td, th { padding: .1rem .8rem .1rem 0; text-align: left; vertical-align: top }
td.Z { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
main { flex: 1; min-height: 8rem; overflow: auto; border-top: 1px solid var(--faint) }
summary { cursor: pointer; list-style: none } summary::-webkit-details-marker { display: none }
.R { display: flex; min-height: 20px }
.D { content-visibility: auto; contain-intrinsic-height: auto 20px; scroll-margin: 3rem }
.N { position: sticky; left: 0; z-index: 1; flex: none; width: min(28rem, 45vw); display: flex;
 padding: 1px .5rem 0 1.4rem; background: var(--paper); border-right: 1px solid var(--faint) }
header summary::before, summary .N::before { content: "\\25b8 " }
summary .N::before { position: absolute; left: .5rem }
header [open] > summary::before, [open] > summary .N::before { content: "\\25be " }
.N b { flex: 0 1 auto; min-width: 1em; font-weight: normal; white-space: nowrap;
 overflow: hidden; text-overflow: ellipsis }
.N b:first-child:not(:last-child) { flex-shrink: 1000000 }
[open] .N, :target .N { flex-wrap: wrap }
[open] .N b, :target .N b { white-space: pre-line; overflow-wrap: anywhere }
.N u { margin-left: auto; text-decoration: none; white-space: nowrap; padding-left: .5em }
.N u.f { font-weight: bold } .D > .R .N { padding-left: 2.6rem }
.T { position: relative; flex: 1; background: repeating-linear-gradient(90deg,
 var(--faint) 0 1px, transparent 1px var(--step)) }
.T > * { position: absolute; top: 2px; height: 16px; min-width: 1px }
.D .T i { height: 8px } .D .T .m, .D .T .v, .D .T .u { top: 10px }
:target .N { background: var(--band) } .T > :hover { opacity: .6 }
.A { position: sticky; top: 0; z-index: 3 } .A .N { z-index: 4; font-weight: bold }
.A .N b, .H b { font-weight: bold } .A .T { background: var(--paper); overflow: clip }
.A, .H { border-bottom: 1px solid var(--faint) } .H .N, .H .T { background: var(--band) }
.A .T span { padding-left: 3px; border-left: 1px solid var(--faint) }
main .T .f, header .f { outline: 1.5px solid var(--ink); outline-offset: -1px }
"""
_COLOURED = "".join(
    f"i.{_CLASSES[kind]}, a.{_CLASSES[kind]} {{ background: {it} }}\n"
    for kind, it in COLOURS.items()
)
_HEAD = f"""\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>VMs and tests</title>
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<style>{_STYLE}{_COLOURED}"""


def page_of(chart: Chart, record: str) -> str:
    """Return the page.

    Args:
        chart: what it shows.
        record: what it was made of, packed; nobody sees it.
    """
    return "".join(_page(chart, record))


def _page(chart: Chart, record: str) -> Iterator[str]:
    width = min(max(_NARROWEST, _PER_TEST * len(chart.tests)), _WIDEST)
    yield (
        f"{_HEAD}main > div {{ min-width: calc(min(28rem, 45vw) + {width}px); "
        f"--step: {100 * chart.step / chart.seconds:.4f}% }}\n</style></head><body>\n"
        f'<template id="{NAME}">{record}</template>\n<header><p>{escaped(chart.heading)}</p>\n<p>'
    )
    for kind in chart.kinds():
        yield f"<span><i class={_CLASSES[kind]}></i> {KINDS[kind]}</span>"
    yield "</p>\n"
    yield from _slowest(chart.slowest)
    yield "</header>\n<main><div>\n"
    yield from _axis(chart)
    yield from _band("Workers")
    for row in chart.workers:
        yield from _row(row, chart)
    yield from _band("Tests, failures first")
    for number, row in enumerate(chart.tests):
        yield from _row(row, chart, number)
    yield "</div></main>\n</body></html>\n"


def _band(heading: str) -> Iterator[str]:
    yield f'<div class="R H"><div class=N><b>{heading}</b></div><div class=T></div></div>\n'


def _slowest(starts: Sequence[Start]) -> Iterator[str]:
    if not starts:
        return
    yield "<details open><summary>The slowest starts</summary><table>\n<tr>"
    yield "".join(f"<th>{name}</th>" for name in ("until ready", "of it", "VM", "test", "worker"))
    for start in starts:
        whole = f"{'never, ' if start.failed else ''}{seconds(start.seconds)}"
        yield f"</tr>\n<tr><td class=Z>{whole}</td>"
        said = (start.of_it, start.vm, start.test, start.worker)
        yield "".join(f"<td>{escaped(text)}</td>" for text in said)
    yield "</tr>\n</table></details>\n"


def _axis(chart: Chart) -> Iterator[str]:
    yield '<div class="R A"><div class=N><b>test</b><u>outcome, time</u></div><div class=T>'
    for at in chart.ticks():
        yield f'<span style="left:{100 * at / chart.seconds:.2f}%">{at:g} s</span>'
    yield "</div></div>\n"


def _row(row: Row, chart: Chart, number: int | None = None) -> Iterator[str]:
    kind, mark = ("R", "") if number is None else ('"R D"', f" id=t{number}")
    if not row.within:
        yield f"<div class={kind}{mark}>{''.join(_cells(row, chart))}</div>\n"
        return
    yield f"<details class=D{mark}><summary class=R>{''.join(_cells(row, chart))}</summary>"
    for one in row.within:
        yield from _row(one, chart)
    yield "</details>\n"


def _cells(row: Row, chart: Chart) -> Iterator[str]:
    # Where there is no room for a test's id, its file's name gives way.
    file = row.name.partition("[")[0].rpartition("::")[0] if row.outcome else ""
    rest = escaped(row.name[len(file) :])
    yield f"<div class=N>{file and f'<b>{escaped(file)}</b>'}<b>{rest}</b>"
    if row.outcome:
        said = f"{escaped(row.outcome)} {seconds(row.took)}"
        yield f"<u class={_CLASSES[colour_of(row.outcome)]}>{said}</u>"
    yield "</div><div class=T>"
    for bar in row.bars:
        yield _bar(bar, chart)
    yield "</div>"


def _bar(bar: Bar, chart: Chart) -> str:
    left, wide = (
        f"{100 * part / chart.seconds:.2f}".rstrip("0").rstrip(".")
        for part in (bar.begin - chart.begin, bar.seconds)
    )
    place = f"class={_CLASSES[bar.kind]} style=left:{left}%;width:{wide}%"
    if bar.of is not None:  # its test's row tells all, and is where this leads
        return f"<a href=#t{bar.of} {place}></a>"
    said = bar.said
    if bar.kind in {"template", "starting", "ready", "port"}:
        said = f"{bar.said or KINDS[bar.kind]} {seconds(bar.seconds)}"
    return f'<i {place} title="{escaped(said)}"></i>' if said else f"<i {place}></i>"
