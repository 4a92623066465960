"""A server of images on the loopback, with whatever faults a test wants of it."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import mmap
import threading
import time


class Server(http.server.ThreadingHTTPServer):
    """Serves files from memory.

    Attributes:
        files: content by path.
        asked: method, path and range of each request.
        cut: bytes of an answer after which the connection ends, by path, for the next times.
        broken: what the server does instead of answering, by path.
        types: what kind of content an answer says it is, by path.
        ranges: whether it knows what a range is.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.asked, self.cut, self.broken = {}, [], {}, {}
        self.types = {}
        self.ranges = True
        self.tags = True

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """A client may have gone."""


# Where Debian's own server has its image.
DEBIAN_FOLDER, DEBIAN_FILE = "/trixie/latest/", "debian-13-genericcloud-amd64.qcow2"


@contextlib.contextmanager
def serving_debian(disk):
    """Serve a disk as ``debian-13``, in the place of the distribution's own server.

    The setting ``image_mirror`` is ``debian=`` and the server's address.
    """
    with (
        serving() as server, disk.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):  # fmt: skip
        sums = f"{hashlib.sha512(content).hexdigest()}  {DEBIAN_FILE}\n"
        server.files[DEBIAN_FOLDER + DEBIAN_FILE] = content
        server.files[f"{DEBIAN_FOLDER}SHA512SUMS"] = sums.encode()
        yield server


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, *, body):
        server, path = self.server, self.path
        wanted = self.headers.get("Range")
        server.asked.append((self.command, path, wanted))
        if (broken := server.broken.get(path)) is not None:
            broken(self)
            return
        content = server.files.get(path)
        if content is None and path.endswith("/"):
            content = self._index(path)
        if content is None:
            self.send_error(404)
            return
        begin = 0
        if wanted and server.ranges:
            begin = int(wanted.removeprefix("bytes=").rstrip("-"))
            if begin >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if server.tags:
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()[:8]}"')
        if path in server.types:
            self.send_header("Content-Type", server.types[path])
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        if body:
            self._send(path, memoryview(content)[begin:])  # it may be large

    def _send(self, path, content):
        cuts = self.server.cut.get(path)
        if cuts:
            content = content[: cuts.pop(0)]
            self.close_connection = True
        self.wfile.write(content)

    def _index(self, path):
        names = {one.removeprefix(path) for one in self.server.files if one.startswith(path)}
        links = "".join(f'<a href="{name}">{name}</a>\n' for name in sorted(names))
        return f"<html><body>\n{links}</body></html>".encode() if names else None

    def log_message(self, *_):
        """Say nothing."""


@contextlib.contextmanager
def serving():
    """Yield a server that runs."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def status(code):
    """Return what answers with a status and nothing else."""

    def answer(handler):
        handler.send_response(code)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def redirect(target):
    """Return what sends whoever asks elsewhere."""

    def answer(handler):
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def silent(seconds):
    """Return what takes a request and says nothing for a while."""

    def answer(handler):
        time.sleep(seconds)
        handler.close_connection = True

    return answer


def dripping(content, pieces, pause):
    """Return what sends a content in pieces."""

    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        size = -(-len(content) // pieces)
        with contextlib.suppress(OSError):
            for at in range(0, len(content), size):
                handler.wfile.write(content[at : at + size])
                time.sleep(pause)

    return answer


def endless(handler):
    """Send zeros without saying how many."""
    handler.send_response(200)
    handler.end_headers()
    handler.close_connection = True
    with contextlib.suppress(OSError):
        while True:
            handler.wfile.write(bytes(1 << 16))


def rubbish(handler):
    """Answer with what is no HTTP."""
    handler.wfile.write(b"\x16\x03\x01 this is no answer\r\n\r\n" * 3)
    handler.close_connection = True
