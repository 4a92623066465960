"""Look at a page of the built site in a real browser, as `make docs` does.

    python scripts/look_at_site.py site tutorial/

A page that is written well may still be shown badly. So the browser is asked what its reader gets:
the heading, a menu that leads to the other pages, a style, pictures that have a size, and what the
button beside a command puts into the clipboard: the command, without its prompt.
"""

import functools
import html
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 120
# The theme marks what it copies, and takes its text as it is shown then.
# Source: mkdocs-material, src/templates/assets/javascripts/components/content/code.
LOOK = """<script>addEventListener("load", () => setTimeout(() => {
  const copied = [...document.querySelectorAll(".highlight code")].map(code => {
    code.setAttribute("data-md-copying", ""); return code.innerText.trim() })
  const seen = {
    heading: document.querySelector("h1").innerText,
    menu: document.querySelectorAll("nav a").length,
    colour: getComputedStyle(document.querySelector("header")).backgroundColor,
    flat: [...document.images].filter(one => !one.naturalWidth).map(one => one.src), copied }
  document.documentElement.textContent = "SEEN" + JSON.stringify(seen) + "NEES"
}, 500))</script></body>"""


class Injected(http.server.SimpleHTTPRequestHandler):
    """Serves the site, with what looks at a page at the page's end."""

    def send_head(self):
        """Add it to pages."""
        path = Path(self.translate_path(self.path))
        if path.is_dir():
            text = (path / "index.html").read_text().replace("</body>", LOOK).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            file = tempfile.TemporaryFile()  # noqa: SIM115 - its reader closes it
            file.write(text)
            file.seek(0)
            return file
        return super().send_head()

    def log_message(self, *_words):
        """Say nothing."""


def seen(browser: str, site: Path, page: str) -> dict:
    """Return what the browser sees of a page."""
    handler = functools.partial(Injected, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with tempfile.TemporaryDirectory() as profile:
            command = [
                browser, "--headless", "--no-sandbox", "--disable-gpu",
                f"--user-data-dir={profile}",
                "--virtual-time-budget=10000", "--dump-dom",
                f"http://127.0.0.1:{server.server_port}/{page}",
            ]  # fmt: skip
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=SECONDS, check=True
            )
        server.shutdown()
    found = re.search("SEEN(.*)NEES", html.unescape(done.stdout), re.DOTALL)
    if found is None:
        raise SystemExit(f"site: the browser has not shown {page}:\n{done.stderr[-2000:]}")
    return json.loads(found[1])


def main(site: str, page: str) -> None:
    """Look, and end with what is wrong."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        if os.environ.get("CI", "").lower() in {"", "0", "false"}:
            print("site: no browser is here, so nobody has looked at it")
            return
        raise SystemExit("site: there is no browser to look at it with: install chromium")
    found = seen(browser, Path(site), page)
    wrong = []
    if not found["heading"] or found["menu"] < 10:
        wrong.append("no heading, or no menu")
    if found["colour"] in {"rgba(0, 0, 0, 0)", "rgb(255, 255, 255)"}:
        wrong.append("no style")
    if found["flat"]:
        wrong.append(f"pictures that are not shown: {found['flat']}")
    commands = [one for one in found["copied"] if one.startswith(("pytest", "sudo apt-get"))]
    if not commands or any("$ " in one or "…" in one for one in found["copied"]):
        wrong.append("commands are copied with their prompt, or with what they answer")
    if wrong:
        raise SystemExit(f"site: a browser shows {page} with {'; '.join(wrong)}")
    print(f"site: a browser shows {page} as it shall be, {len(commands)} commands to copy in it")


if __name__ == "__main__":
    main(*sys.argv[1:])
