"""The picture of a run: what it shows, that it harms nobody, and how a browser sees it."""

from __future__ import annotations

import html
import json
import re
import subprocess
import xml.etree.ElementTree as ET
from collections import Counter

import pytest
from runs import NOW, case, large, run, vm

from pytest_vmports.report.chart import chart_of
from pytest_vmports.report.timeline import timeline_of

SVG = "{http://www.w3.org/2000/svg}"


def bars(made):
    """Return kind and title of every bar, from an SVG that a strict reader takes."""
    root = ET.fromstring(timeline_of(made, ".svg"))
    found = ((rect, rect.find(f"{SVG}title")) for rect in root.iter(f"{SVG}rect"))
    return [(rect.get("class"), title.text) for rect, title in found if title is not None]


def test_a_drawing_shows_outcomes_phases_and_ports():
    builder = vm(origin="booted", template=True, ready=NOW + 9, stopped=NOW + 9.5, ports=[])
    shown = bars(run([case(outcome="failed")], [builder, vm(), vm(at=NOW + 1)]))
    assert [kind for kind, _ in shown].count("port") == 2
    assert {
        ("failed", "failed\ntest_a\ntest failed: 3.00 s"), ("failed", "test failed: 1.00 s"),
        ("around", "gw0: setup 1.00 s, call 1.00 s, teardown 1.00 s"),
        (
            "template",
            "alpine, usernet, booted for a template\ntest_a\nVM boots for a template: 9.25 s",
        ),
        ("starting", "alpine, usernet, cloned\ntest_a\nVM starts: 0.75 s"),
        ("ready", "alpine, usernet, cloned\ntest_a\nVM in use: 1.00 s"),
        ("port", "127.0.0.1:20001 -> 80/tcp\ntest_a\nport held: 2.00 s"),
    } <= {*shown}  # fmt: skip


@pytest.mark.parametrize(
    "machine", [vm(ready=None, stopped=NOW + 5), vm(stopped=None), vm(ready=None, stopped=None)]
)
def test_a_vm_that_never_got_ready_or_still_runs_is_drawn_too(machine):
    assert "starting" in dict(bars(run([case()], [machine])))


@pytest.mark.parametrize("ending", [".html", ".svg", ".json"])
def test_a_run_without_vms_and_one_without_tests_can_be_drawn(ending):
    for made in (run(), run([case()]), run([], [vm()])):
        assert timeline_of(made, ending)
    assert bars(run()) == []


ORDERED = [
    case("slow", at=NOW), case("late_failure", at=NOW + 5, outcome="failed"),
    case("skipped", at=NOW + 2, outcome="skipped"), case("early_failure", at=NOW + 4,
    outcome="failed"), case("broken", at=NOW + 3),
]  # fmt: skip
ORDERED[4].phases[0].outcome = "failed"


def test_each_test_has_a_row_with_outcome_and_time_failures_first():
    rows = chart_of(run(ORDERED)).tests
    assert [(row.name, row.outcome, row.took) for row in rows] == [
        ("broken", "error", 1), ("early_failure", "failed", 1), ("late_failure", "failed", 1),
        ("slow", "passed", 1), ("skipped", "skipped", 1),
    ]  # fmt: skip
    for ending in (".html", ".svg"):
        drawn = timeline_of(run(ORDERED), ending)
        places = [drawn.index(f">{row.name}<") for row in rows]
        assert places == sorted(places) and ">failed 1.00 s<" in drawn


def test_the_slowest_starts_are_told_with_their_parts():
    vms = [vm(f"test_{number}", ready=NOW + 0.5 + number, stopped=NOW + 90) for number in range(12)]
    vms += [vm("never", ready=None, stopped=NOW + 60)]
    made = run([case(one.test) for one in vms], vms)
    slowest = chart_of(made).slowest
    assert [one.test for one in slowest] == ["never", *(f"test_{n}" for n in range(11, 4, -1))]
    assert slowest[1].parts == [("ports and template", 0.25), ("restore", 0.25), ("answer", 11.0)]
    page = timeline_of(made, ".html")
    assert (
        "<td class=Z>never, 60.00 s</td><td>ports and template 0.25 s, restore 0.25 s, answer 59.50"
        in page
    )
    assert "11.50 s: ports and template 0.25 s, restore 0.25 s, answer 11.00 s" in timeline_of(
        made, ".svg"
    )


def test_a_bar_of_a_worker_leads_to_the_row_of_its_test():
    page = timeline_of(run(ORDERED, [vm("late_failure")]), ".html")
    for name in ("late_failure", "slow"):
        (row,) = re.findall(rf"id=(t\d+)>(?:<summary class=R>)?<div class=N><b>{name}<", page)
        assert page.count(f"<a href=#{row} ") == (3 if name == "late_failure" else 1)


def test_a_test_of_another_attempt_has_a_row_of_its_own():
    made = run([case(outcome="rerun"), case(attempt=2, at=NOW + 5)], [vm(), vm(attempt=2)])
    assert [(row.name, len(row.within)) for row in chart_of(made).tests] == [
        ("test_a", 1), ("test_a (attempt 2)", 1)
    ]  # fmt: skip


def test_no_name_of_a_test_becomes_a_part_of_the_page():
    name = "test_a[</svg><script>alert(1)</script>&\"'\x00\x1b\ud800é]"
    made = run([case(name, "<gw0>")], [vm(name, "<gw0>", guest='<b>&"')])
    page = timeline_of(made, ".html")
    assert "<script" not in page and '<b>&"' not in page
    page.encode()  # lone surrogates have no bytes
    (title, *_) = [title for kind, title in bars(made) if kind == "passed"]
    assert title.startswith("passed\ntest_a[</svg><script>alert(1)</script>&\"'")


def test_the_page_asks_for_nothing_from_elsewhere():
    page = timeline_of(large(), ".html")
    assert not re.search(r"https?:|//|\bsrc=|url\(|@import", re.sub("<template.*?</te", "", page))


def test_a_page_and_its_bars_grow_with_the_tests_and_not_faster():
    few, many = (timeline_of(large(count), ".html") for count in (100, 1000))
    assert len(many) < 11 * len(few)
    assert len(many) < 900_000
    bars_of = [Counter(re.findall(r"<([ai]) ", page)) for page in (few, many)]
    assert all(bars_of[1][tag] <= 10 * count for tag, count in bars_of[0].items())


@pytest.fixture
def seen_by(chromium, tmp_path):
    """Return a function: what a program in a page found, as Chromium lays it out."""

    def see(page, program, *words):
        path = tmp_path / "timeline.html"
        program = f"<script>document.title = JSON.stringify({program})</script>"
        path.write_text(page.replace("</body>", f"{program}</body>"))
        done = subprocess.run(
            [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
             "--window-size=1400,900", f"--user-data-dir={tmp_path / 'profile'}", *words,
             path.as_uri()],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)[1]
        return json.loads(html.unescape(title))

    return see


COLOURS = """
(() => {
  const look = e => getComputedStyle(e);
  const small = e => { const b = e.getBoundingClientRect(); return b.width < 1 || b.height < 1 };
  const bars = [...document.querySelectorAll('main a, main summary i')];
  // To ask for the place of what is out of sight takes long: those of workers and some tests do.
  return [bars.length, bars.slice(0, 3300).filter(small).length,
    look(document.querySelector('main a.f')).backgroundColor, look(document.body).backgroundColor];
})()
"""


def test_a_browser_shows_a_thousand_tests_in_light_and_dark(seen_by):
    made = large()
    made.tests[5].phases[1].end = made.tests[5].phases[1].begin  # seen all the same
    page = timeline_of(made, ".html")
    count = 1000 * (1 + 2) + 1000 * (2 + 2)  # of workers; of tests
    light = seen_by(page, COLOURS)
    assert light == [count, 0, "rgb(213, 94, 0)", "rgb(255, 255, 255)"]
    dark = seen_by(page, COLOURS, "--blink-settings=preferredColorScheme=0")
    assert dark == [count, 0, "rgb(213, 94, 0)", "rgb(22, 22, 22)"]


SCROLLED = """
(() => {
  const main = document.querySelector('main');
  const at = e => { const b = e.getBoundingClientRect(); return [b.left, b.top] };
  const axis = main.querySelector('.A'), place = main.getBoundingClientRect();
  const before = [at(main.querySelector('.A .T span'))[0], axis.getBoundingClientRect().top];
  main.scrollTo(700, 9000);
  const rows = [...main.querySelectorAll('summary')];
  const row = rows.find(e => e.getBoundingClientRect().top > place.top + 100);
  return {
    scrolled: [main.scrollLeft, main.scrollTop],
    axis: [before[0] - at(main.querySelector('.A .T span'))[0], axis.getBoundingClientRect().top
      - before[1]],
    name: [at(row.querySelector('.N'))[0] - place.left, row.querySelector('.N').textContent],
    lazy: getComputedStyle(row.closest('.D')).contentVisibility,
  };
})()
"""


def test_names_and_the_time_stay_while_one_scrolls(seen_by):
    seen = seen_by(timeline_of(large(), ".html"), SCROLLED)
    assert seen["scrolled"] == [700, 9000]
    assert seen["axis"] == [700, 0]  # it goes along to the side, and not up
    assert seen["name"][0] == 0 and "::test_number[" in seen["name"][1]
    assert seen["lazy"] == "auto"


FOLDED = """
(() => {
  const fold = document.querySelector('main details');
  const port = [...fold.querySelectorAll('b')].find(e => e.textContent.includes('20007'));
  const high = () => fold.getBoundingClientRect().height;
  const before = [fold.open, port.checkVisibility(), high()];
  fold.querySelector('summary').click();
  return [before, [fold.open, port.checkVisibility(), high() > before[2]]];
})()
"""


def test_the_ports_of_a_test_are_folded_until_one_asks(seen_by):
    before, after = seen_by(timeline_of(large(20), ".html"), FOLDED)
    assert before[:2] == [False, False] and before[2] < 30
    assert after == [True, True, True]


SUITE = """
import pytest

pytestmark = pytest.mark.vmports(8080, setup="nc -lk -p 8080 -e cat &")

@pytest.mark.parametrize("number", range(4))
def test_it(vm_with_ports, number):
    assert number != 3
"""


@pytest.mark.parametrize("name", ["pages/run.html", "run.SVG", "run.json"])
def test_a_run_over_workers_draws_itself(pytester, shared_templates, qemu_binary, name):
    pytester.makepyfile(SUITE)
    result = pytester.runpytest_subprocess("-n2", f"--vmports-timeline={name}")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines([f"vmports: the timeline is in {pytester.path / name}"])
    drawn = (pytester.path / name).read_text()
    if name.endswith("json"):
        told = json.loads(drawn)["traceEvents"]
        names = Counter(one["name"] for one in told)
        assert names["call"] == 4 and names["in use"] >= 4 and names["call failed"] == 1
        assert {one["args"]["name"] for one in told if one["name"] == "process_name"} == {
            "gw0", "gw1"
        }  # fmt: skip
        return
    assert drawn.startswith("<!doctype html>" if name.endswith("html") else "<svg ")
    held, failed = (
        ("<i class=h style=", "<i class=f style=") if name.endswith("html")
        else ('<rect class="port" x', "\ntest failed:")
    )  # fmt: skip
    assert drawn.count(held) >= 4 and drawn.count(failed) == 1
    assert ">gw0 VMs</" in drawn and ">gw1 VMs</" in drawn


def test_what_is_no_picture_is_refused_before_the_run(pytester):
    result = pytester.runpytest_subprocess("--vmports-timeline=run.png")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*timeline*run.png*ends in .html, .svg or .json*"])
