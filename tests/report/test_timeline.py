"""The picture of a run: what it shows, that it harms nobody, and how a browser sees it."""

from __future__ import annotations

import re
import subprocess
import xml.etree.ElementTree as ET

import pytest

from pytest_vmports.report.timeline import Timeline

SVG = "{http://www.w3.org/2000/svg}"
BEGIN = 1_700_000_000.0


def vm(begin=BEGIN, ready=1.0, stopped=2.0, **more):
    return {
        "origin": "cloned", "template": False, "guest": "alpine",
        "wiring": "usernet", "leased": begin, "start": begin,
        "ready": begin + ready, "stopped": begin + stopped,
        "ports": ["127.0.0.1:20001 -> 80/tcp"], **more,
    }  # fmt: skip


def bars(timeline):
    """Return kind and title of every bar, from an SVG that a strict reader takes."""
    root = ET.fromstring(timeline.svg())
    found = ((rect, rect.find(f"{SVG}title")) for rect in root.iter(f"{SVG}rect"))
    return [(rect.get("class"), title.text) for rect, title in found if title is not None]


def large():
    """Return a run of a thousand tests on four workers."""
    timeline = Timeline()
    for number in range(1000):
        begin = BEGIN + number * 0.1
        worker, test = f"gw{number % 4}", f"tests/test_it.py::test_{number}"
        outcome = "failed" if number % 100 == 7 else "passed"
        timeline.add_test(test, worker, "call", outcome, begin=begin + 0.2, end=begin + 0.3)
        port = f"127.0.0.1:{20000 + number} -> 80/tcp"
        timeline.add_machines(test, worker, [vm(begin, 0.2, 0.3, ports=[port])])
    return timeline


def test_it_shows_outcomes_phases_and_ports():
    timeline = Timeline()
    timeline.add_test("test_a", "gw0", "call", "failed", begin=BEGIN + 1, end=BEGIN + 2)
    timeline.add_test("test_a", "gw0", "setup", "passed", begin=BEGIN, end=BEGIN + 1)
    builder = vm(template=True, ready=9.0, stopped=9.5, ports=[])
    timeline.add_machines("test_a", "gw0", [builder, vm(), vm(ready=0.1, stopped=1.0)])
    shown = bars(timeline)
    assert [kind for kind, _ in shown].count("port") == 2
    assert ("failed", "test_a\ncall failed, 1.00 s") in shown
    assert ("around", "test_a\nsetup passed, 1.00 s") in shown
    assert ("template", "alpine, usernet, cloned\ntest_a\nVM boots for a template: 9.50 s") in shown
    assert ("starting", "alpine, usernet, cloned\ntest_a\nVM starts: 0.10 s") in shown
    assert ("ready", "alpine, usernet, cloned\ntest_a\nVM in use: 0.90 s") in shown


@pytest.mark.parametrize(
    "machine",
    [
        vm() | {"ready": None, "stopped": BEGIN + 5},
        vm() | {"stopped": None},
        vm() | {"ready": None, "stopped": None},
    ],
)  # fmt: skip
def test_a_vm_that_never_got_ready_or_still_runs_is_drawn_too(machine):
    timeline = Timeline()
    timeline.add_test("test_a", "gw0", "call", "passed", begin=BEGIN, end=BEGIN + 7)
    timeline.add_machines("test_a", "gw0", [machine])
    assert "starting" in dict(bars(timeline))


def test_a_run_without_vms_and_one_without_tests_can_be_drawn():
    assert bars(Timeline()) == []
    ET.fromstring(Timeline().svg())


def test_no_name_of_a_test_becomes_a_part_of_the_page():
    timeline = Timeline()
    name = "test_a[</svg><script>alert(1)</script>&\"'\x00\x1b\ud800é]"
    timeline.add_test(name, "<gw0>", "call", "passed", begin=BEGIN, end=BEGIN + 1)
    timeline.add_machines(name, "<gw0>", [vm(guest="<b>&")])
    assert "<script" not in timeline.page()
    timeline.page().encode()  # lone surrogates have no bytes
    (title,) = [title for kind, title in bars(timeline) if kind == "passed"]
    assert title.startswith("test_a[</svg><script>alert(1)</script>&\"'")


def test_the_page_asks_for_nothing_from_elsewhere():
    page = large().page().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|//|\bsrc=|url\(|@import", page)


def test_a_browser_shows_a_thousand_tests(chromium, tmp_path):
    """By what its own engine has laid out: a script is put behind the page for that alone."""
    page = tmp_path / "timeline.html"
    measure = (
        "<script>const r = [...document.querySelectorAll('rect')].filter(e => {"
        " const b = e.getBoundingClientRect(); return b.width >= 1 && b.height >= 1});"
        "const f = getComputedStyle(document.querySelector('rect.failed')).fill;"
        "const p = getComputedStyle(document.querySelector('svg')).backgroundColor;"
        "document.title = [r.length, f, p, r.at(-1).querySelector('title').textContent].join('|')"
        "</script>"
    )
    page.write_text(large().page().replace("</body>", f"{measure}</body>"))
    seen = []
    for dark in ([], ["--blink-settings=preferredColorScheme=0"]):
        done = subprocess.run(
            [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
             f"--user-data-dir={tmp_path / 'profile'}", *dark, page.as_uri()],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        seen.append(re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)[1].split("|"))
    light, dark = seen
    count = 1000 + 2 * 1000 + 1000 + 5  # tests; VMs starting and in use; ports; the legend
    assert light[:3] == [str(count), "rgb(213, 94, 0)", "rgb(255, 255, 255)"]
    assert "127.0.0.1:20999 -" in light[3]
    assert dark[:3] == [str(count), "rgb(213, 94, 0)", "rgb(22, 22, 22)"]


SUITE = """
import pytest

pytestmark = pytest.mark.vmports(8080, setup="nc -lk -p 8080 -e cat &")

@pytest.mark.parametrize("number", range(4))
def test_it(vm_with_ports, number):
    assert number != 3
"""


@pytest.mark.parametrize("name", ["pages/run.html", "run.SVG"])
def test_a_run_over_workers_draws_itself(pytester, shared_templates, qemu_binary, name):
    pytester.makepyfile(SUITE)
    result = pytester.runpytest_subprocess("-n2", f"--vmports-timeline={name}")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines([f"vmports: the timeline is in {pytester.path / name}"])
    drawn = (pytester.path / name).read_text()
    assert drawn.startswith("<!doctype html>" if name.endswith("html") else "<svg ")
    assert drawn.count('<rect class="port"') >= 4 + 1
    assert drawn.count('<rect class="failed"') == 1 + 1
    assert ">gw0 VMs</text>" in drawn and ">gw1 VMs</text>" in drawn


def test_what_is_no_picture_is_refused_before_the_run(pytester):
    result = pytester.runpytest_subprocess("--vmports-timeline=run.png")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*timeline*run.png*ends in .html or .svg*"])
