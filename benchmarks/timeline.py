"""How long does a timeline take to be made, and how large is it, of 100 and of 1,000 tests?

    python benchmarks/timeline.py [--tests N]

No test is run: the values are made up. If Chromium is there, it opens the page of both, too.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from runs import large

from pytest_vmports.report import as_json, timeline

ENDINGS = {"page": ".html", "drawing": ".svg", "trace events": ".json", "report": "-report.json"}
ROUNDS = 5


def opened(page: Path, profile: Path) -> float | None:
    """Return the seconds in which Chromium starts, opens a page and draws it; None without it."""
    chromium = shutil.which("chromium")
    if chromium is None:
        return None
    began = time.perf_counter()
    subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}",
         f"--screenshot={page}.png", "--window-size=1400,900", page.as_uri()],
        capture_output=True, check=True,
    )  # fmt: skip
    return time.perf_counter() - began


def measure(tests: int, folder: Path) -> dict[str, list[float]]:
    """Return for each kind of file its kilobytes, and the best seconds of a few rounds."""
    made, found = large(tests), {}
    for what, ending in ENDINGS.items():
        path = folder / f"{tests}{ending}"
        write = as_json.write if what == "report" else timeline.write
        seconds = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            write(made, path)
            seconds.append(time.perf_counter() - began)
        found[what] = [path.stat().st_size / 1e3, min(seconds)]
    if (seen := opened(folder / f"{tests}.html", folder / "profile")) is not None:
        seen = min(seen, *(opened(folder / f"{tests}.html", folder / "profile") for _ in "12"))
        found["page in Chromium"] = [found["page"][0], seen]
    return found


def main() -> None:
    """Measure a tenth and all of so many tests, and print how many times more the latter takes."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--tests", type=int, default=1000)
    wanted = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        few, many = (measure(count, Path(name)) for count in (wanted.tests // 10, wanted.tests))
    print(f"| {wanted.tests} tests | kB | s | of a tenth: kB, times | s, times |")
    print("|---|---|---|---|---|")
    for what, (size, seconds) in many.items():
        ratios = size / few[what][0], seconds / few[what][1]
        print(f"| {what} | {size:.0f} | {seconds:.3f} | {ratios[0]:.1f} | {ratios[1]:.1f} |")


if __name__ == "__main__":
    main()
