"""Saved guests that come from elsewhere: whatever is wrong there costs a line and a boot."""

from __future__ import annotations

import http.server
import io
import threading
import time
from functools import partial

import fsspec
import pytest

from pytest_vmports.pool import remote
from pytest_vmports.pool.packed import pack
from pytest_vmports.pool.remote import Remote
from pytest_vmports.pool.template_store import TemplateStore
from pytest_vmports.settings.far_store import FarStore

FACTS = {"name": "guest", "memory": 256}
KEY = TemplateStore.key(FACTS)
FILE = f"{KEY}.vmports"
SECRET, OTHER = b"0123456789abcdef", b"fedcba9876543210"


def fill(folder):
    for name in ("ram", "state", "console", "clock"):
        (folder / name).write_text(name)


@pytest.fixture
def template(saved_guest):
    """A saved guest, as a store has it."""
    return saved_guest(FACTS, fill)


@pytest.fixture
def packed(template):
    """The same packed, signed with ``SECRET``."""
    out = io.BytesIO()
    pack(template, out, SECRET)
    return out.getvalue()


@pytest.fixture
def new(tmp_path):
    """Return a function that makes a run's store; what it says is in its ``said``."""
    (tmp_path / "shared").mkdir()

    def made(url=tmp_path / "far", shared="shared", most=1 << 30, **words):
        said = []
        words.setdefault("secret", SECRET)
        one = Remote(FarStore(str(url), **words), tmp_path / shared, most, said.append)
        one.said = said
        return one

    return made


@pytest.fixture
def folder(tmp_path):
    """An empty folder that a template is to be in."""
    (tmp_path / "new" / "folder").mkdir(parents=True)
    return tmp_path / "new" / "folder"


def test_what_was_put_there_is_fetched(new, template, folder, tmp_path):
    one = new()
    one.put(template)
    one.close()
    assert [file.name for file in (tmp_path / "far").iterdir()] == [FILE]
    assert new().fetch(KEY, folder, "guest")
    assert {file.name: file.read_text() for file in folder.iterdir()} == {
        name: name for name in ("ram", "state", "console", "clock")
    }
    assert [path.name for path in folder.parent.iterdir()] == ["folder"] and one.said == []


def test_what_is_not_there_is_booted_without_a_word(new, folder):
    one = new()
    assert not one.fetch(KEY, folder, "guest") and one.said == []


def test_nothing_is_put_into_one_to_read(new, template, tmp_path):
    one = new(readonly=True)
    one.put(template)
    one.close()
    assert not (tmp_path / "far").exists() and one.said == []


STATUS = {"missing": 404, "broken": 500, "forbidden": 403}


class Server:
    """A server of files that answers as it is told."""

    def __init__(self, content, how):
        self.content, self.how, self.asked = content, how, 0
        self.over = threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self):
                self._begin()

            def do_GET(self):
                outer.asked += 1
                if outer.how == "slow":
                    outer.over.wait(30)
                    return
                self._begin()
                if outer.how == "cut":
                    self.wfile.write(outer.content[:-50])
                    self.close_connection = True
                elif outer.how not in STATUS:
                    self.wfile.write(outer.content)

            def do_PUT(self):
                outer.asked += 1
                parts = iter(self._chunk, b"")
                outer.content, outer.how = b"".join(parts), "well"
                self._begin()

            def _chunk(self):
                size = int(self.rfile.readline(), 16)
                return self.rfile.read(size + 2)[:size]

            def _begin(self):
                self.send_response(STATUS.get(outer.how, 200))
                self.send_header(
                    "Content-Length", "0" if outer.how in STATUS else str(len(outer.content))
                )
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=partial(self._server.serve_forever, 0.05), daemon=True).start()

    def close(self):
        self.over.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def serve(packed):
    servers = []

    def new(how, content=packed):
        servers.append(Server(content, how))
        return servers[-1]

    yield new
    for one in servers:
        one.close()


def test_one_is_fetched_by_http(new, serve, folder):
    one = new(serve("well").url)
    assert one.fetch(KEY, folder, "guest") and one.said == []


def test_one_is_put_by_http(new, serve, template, folder):
    one = new(serve("missing").url)
    assert not one.fetch(KEY, folder, "guest")
    one.put(template)
    one.close()
    assert one.fetch(KEY, folder, "guest") and one.said == []


@pytest.mark.parametrize("how", ["cut", "broken", "forbidden", "slow", "missing", "gone"])
def test_a_store_that_cannot_be_used_costs_a_line_and_is_not_asked_again(
    new, serve, folder, monkeypatch, how
):
    monkeypatch.setattr(remote, "GET_SECONDS", 1.0)
    server = serve(how)
    if how == "gone":
        server.close()
    one = new(server.url)
    before = time.monotonic()
    assert not one.fetch(KEY, folder, "guest") and not [*folder.iterdir()]
    assert time.monotonic() - before < 30
    asked = server.asked
    # Another worker of the same run.
    other = new(server.url)
    assert not other.fetch(KEY, folder, "guest")
    if how == "missing":
        assert one.said == other.said == []
        return
    (line,) = [*one.said, *other.said]
    assert server.url in line and "\n" not in line
    assert server.asked == asked


ODD = {
    "changed": (lambda whole: whole[:300] + b"x" + whole[301:], {}, ""),
    "cut": (lambda whole: whole[:-50], {}, "cut"),
    "unsigned": (None, {}, "not signed"),
    "of another": (OTHER, {}, "another secret"),
    "too large": (lambda whole: whole, {"most": 10}, "MiB"),
    "nothing": (lambda _: b"", {}, "cut, or none"),
}


@pytest.mark.parametrize("what", ODD)
def test_one_that_is_not_to_be_believed_is_said_and_never_used(
    new, template, packed, folder, tmp_path, what
):
    change, words, told = ODD[what]
    if not callable(change):
        out = io.BytesIO()
        pack(template, out, change)
        content = out.getvalue()
    else:
        content = change(packed)
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / FILE).write_bytes(content)
    one, other = new(**words), new(**words)
    assert not one.fetch(KEY, folder, "guest") and not [*folder.iterdir()]
    assert not other.fetch(KEY, folder, "guest")
    (line,) = [*one.said, *other.said]
    assert told in line and "\n" not in line


def test_one_that_did_not_work_is_given_up_for_the_run(new, template, folder):
    one = new()
    one.put(template)
    one.close()
    assert one.fetch(KEY, folder, "guest") and one.on_trial(KEY) and new().on_trial(KEY)
    for file in folder.iterdir():
        file.unlink()
    other = new()
    one.give_up(KEY, "guest", "it died")
    other.give_up(KEY, "guest", "it died")
    (line,) = [*one.said, *other.said]
    assert "is not used: it died; it is booted instead" in line
    assert not one.on_trial(KEY) and not new().fetch(KEY, folder, "guest")


def test_one_that_worked_is_on_trial_no_more(new, template, folder):
    one, other = new(), new()
    one.put(template)
    one.close()
    one.worked(KEY)  # of another: nothing was fetched
    assert one.fetch(KEY, folder, "guest") and other.on_trial(KEY)
    one.worked(KEY)
    assert not one.on_trial(KEY) and not other.on_trial(KEY)


def test_a_password_is_not_shown_where_the_address_is(new, folder):
    one = new("nonsense://me:hush@x/y")
    assert not one.fetch(KEY, folder, "guest")
    assert "nonsense://x/y" in one.said[0] and "hush" not in one.said[0]
    assert "hush" not in str(FarStore("s3://me:hush@x")) and "0123" not in repr(one._wanted)


def test_one_that_cannot_be_put_is_told_once(new, template, tmp_path):
    (tmp_path / "far").write_text("no folder")
    one = new()
    for _ in range(2):
        one.put(template)
        one.close()
    (line,) = one.said
    assert "nothing can be put into" in line


def test_a_store_in_memory_is_one_too(new, template, folder):
    one = new("memory://saved/guests")
    one.put(template)
    one.close()
    assert fsspec.filesystem("memory").exists(f"/saved/guests/{FILE}") and one.said == []
    assert new("memory://saved/guests").fetch(KEY, folder, "guest")


def test_an_address_that_nothing_reaches_is_told(new, folder):
    one = new("nonsense://x")
    assert not one.fetch(KEY, folder, "guest")
    assert "nonsense" in one.said[0]
