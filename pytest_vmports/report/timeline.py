"""A picture of a run: which worker did what when, which VM was in which phase, who held which port.

One drawing in SVG, alone or in a page of HTML. Both contain all they need, follow the light
or dark setting of the reader, and tell details under the pointer by the ``title`` of SVG.
"""

from __future__ import annotations

import html
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

_LEFT, _RIGHT, _TOP, _LANE, _PORT_LANE, _GAP = 150, 20, 46, 16, 8, 10
_NARROWEST, _WIDEST, _PER_TEST, _MOST_TICKS = 1000, 6000, 4, 20
_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200)
_KINDS = {
    "around": "set-up, tear-down", "passed": "test passed", "failed": "test failed",
    "skipped": "test skipped", "template": "VM boots for a template", "starting": "VM starts",
    "ready": "VM in use", "port": "port held",
}  # fmt: skip
# Okabe and Ito's colours, which people with any colour vision tell apart; what failed is also
# outlined.
_STYLE = """
svg { --ink: #222; --paper: #fff; --faint: #ddd; font: 11px system-ui, sans-serif; }
svg { background: var(--paper); }
@media (prefers-color-scheme: dark) { svg { --ink: #ddd; --paper: #161616; --faint: #3a3a3a; } }
text { fill: var(--ink); } line { stroke: var(--faint); }
.around { fill: #80cfb9; } .passed { fill: #009e73; } .skipped { fill: #999; }
.port { fill: #56b4e9; }
.failed { fill: #d55e00; stroke: var(--ink); stroke-width: 1.5; }
.template { fill: #cc79a7; } .starting { fill: #e69f00; } .ready { fill: #0072b2; }
rect:hover { opacity: 0.6; }
"""
_PAGE = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>VMs and tests</title>
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<style>
body {{ margin: 1rem; font: 14px system-ui, sans-serif; background: #fff; color: #222; }}
@media (prefers-color-scheme: dark) {{ body {{ background: #161616; color: #ddd; }} }}
div {{ overflow: auto; max-height: 85vh; }}
</style></head><body>
<p>{summary}</p>
<div>{drawing}</div>
</body></html>
"""


@dataclass(frozen=True)
class Bar:
    """Something that lasted; times in seconds since the epoch."""

    lane: str
    kind: str
    begin: float
    end: float
    title: str


@dataclass
class Timeline:
    """Collects what a run's reports say.

    Attributes:
        tests: phases of tests.
        machines: their VMs.
        within: an element for the drawing that nobody sees.
    """

    tests: list[Bar] = field(default_factory=list)
    machines: list[Mapping[str, Any]] = field(default_factory=list)
    within: str = ""

    def add_test(
        self, test: str, worker: str, when: str, outcome: str, *, begin: float, end: float
    ) -> None:
        """Note one phase of a test; ``when`` is ``setup``, ``call`` or ``teardown``."""
        title = f"{test}\n{when} {outcome}, {end - begin:.2f} s"
        kind = "around" if outcome == "passed" and when != "call" else outcome
        self.tests.append(Bar(worker, kind, begin, end, title))

    def add_machines(self, test: str, worker: str, machines: Iterable[Mapping[str, Any]]) -> None:
        """Note a test's VMs, as `summary.facts_of` describes them."""
        self.machines += ({**machine, "test": test, "worker": worker} for machine in machines)

    def svg(self) -> str:
        """Return the drawing, complete in itself."""
        return "".join(self._drawing())

    def page(self) -> str:
        """Return a page with the drawing."""
        summary = f"{len(self.tests)} phases of tests, {len(self.machines)} VMs"
        return _PAGE.format(summary=summary, drawing=self.svg())

    def write(self, path: Path) -> None:
        """Write the drawing, or the page, by the end of the file's name.

        Raises:
            OSError: it cannot be written.
        """
        drawn = self.svg() if path.suffix.lower() == ".svg" else self.page()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(drawn, encoding="utf-8")

    def _bars(self) -> tuple[dict[str, list[Bar]], dict[str, list[Bar]]]:
        """Return the bars of workers and of ports, by lane."""
        ends = [bar.end for bar in self.tests] + [m["stopped"] or 0.0 for m in self.machines]
        over = max(ends, default=0.0)
        workers: dict[str, list[Bar]] = {}
        ports: dict[str, list[Bar]] = {}
        for bar in sorted(self.tests, key=lambda bar: bar.begin):
            workers.setdefault(bar.lane, []).append(bar)
        for machine in self.machines:
            for bar in _phases(machine, over):
                workers.setdefault(bar.lane, []).append(bar)
            for port in machine["ports"]:
                begin, end = machine["leased"], machine["stopped"] or over
                title = f"{port}\n{machine['test']}\n{end - begin:.2f} s"
                held = Bar(port.partition(" ")[0], "port", begin, end, title)
                ports.setdefault(held.lane, []).append(held)
        by_first_use = sorted(ports.items(), key=lambda lane: min(bar.begin for bar in lane[1]))
        return dict(sorted(workers.items())), dict(by_first_use)

    def _drawing(self) -> Iterator[str]:
        workers, ports = self._bars()
        bars = [*itertools.chain(*workers.values(), *ports.values())]
        first = min((bar.begin for bar in bars), default=0.0)
        seconds = max(max((bar.end for bar in bars), default=0.0) - first, 0.001)
        width = min(max(_NARROWEST, _PER_TEST * len(self.tests)), _WIDEST)
        scale = (width - _LEFT - _RIGHT) / seconds
        height = _TOP + _GAP + len(workers) * (_LANE + _GAP) + len(ports) * _PORT_LANE + 2 * _GAP
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" role="img"><style>{_STYLE}</style>{self.within}'
        )
        yield from _legend({bar.kind for bar in bars})
        yield from _axis(seconds, scale, height)
        top: float = _TOP + _GAP
        lanes = [(lane, _LANE, _GAP) for lane in workers.items()]
        lanes += [(lane, _PORT_LANE, 0) for lane in ports.items()]
        for (name, found), high, gap in lanes:
            yield _text(4, top + high - (4 if gap else 1), name, size=11 if gap else 7)
            for bar in found:
                yield _rect(bar, _LEFT + (bar.begin - first) * scale, top, scale, high - 2)
            top += high + gap
        yield "</svg>\n"


def _phases(machine: Mapping[str, Any], over: float) -> Iterator[Bar]:
    """Yield what a VM went through; ``over`` is when the run ended."""
    lane = f"{machine['worker']} VMs"
    # Its ports may have been leased long before, while its template was built.
    begin, ready = machine["start"] or machine["leased"], machine["ready"]
    end = machine["stopped"] or over
    started = end if machine["template"] or ready is None else ready
    what = f"{machine['guest']}, {machine['wiring']}, {machine['origin']}\n{machine['test']}"
    kind = "template" if machine["template"] else "starting"
    yield Bar(lane, kind, begin, started, f"{what}\n{_KINDS[kind]}: {started - begin:.2f} s")
    if started < end:
        title = f"{what}\n{_KINDS['ready']}: {end - started:.2f} s"
        yield Bar(lane, "ready", started, end, title)


def _legend(kinds: Iterable[str]) -> Iterator[str]:
    left = _LEFT
    for kind in (kind for kind in _KINDS if kind in set(kinds)):
        yield f'<rect class="{kind}" x="{left}" y="6" width="10" height="10"/>'
        yield _text(left + 14, 15, _KINDS[kind])
        left += 30 + 6 * len(_KINDS[kind])


def _axis(seconds: float, scale: float, height: int) -> Iterator[str]:
    step = next((tick for tick in _TICKS if seconds / tick <= _MOST_TICKS), _TICKS[-1])
    for number in range(int(seconds / step) + 1):
        x = _LEFT + number * step * scale
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 4}" y2="{height}"/>'
        yield _text(x + 2, _TOP - 6, f"{number * step:g} s")


def _rect(bar: Bar, left: float, top: float, scale: float, high: float) -> str:
    wide = max((bar.end - bar.begin) * scale, 1)
    return (
        f'<rect class="{_escaped(bar.kind)}" x="{left:.1f}" y="{top:.1f}" width="{wide:.1f}" '
        f'height="{high:.1f}"><title>{_escaped(bar.title)}</title></rect>'
    )


def _text(left: float, top: float, text: str, size: int = 11) -> str:
    return f'<text x="{left:.1f}" y="{top:.1f}" font-size="{size}">{_escaped(text)}</text>'


def _escaped(text: str) -> str:
    """Return a text for XML, in which most control characters must not be, however escaped."""
    return html.escape("".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text))
