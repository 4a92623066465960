"""A word on the terminal about what takes long."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING

from pytest_vmports.system import clock
from pytest_vmports.system.mishaps import noting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Seconds: from when on it is worth a line, and until the next; or until it is redrawn in place.
_FIRST, _AGAIN, _REDRAW = 2.0, 10.0, 0.5


def for_whom(what: str) -> str:
    """Return what is done, and for which test and by which worker where there are such."""
    # "tests/test_a.py::test_it[80] (setup)": as pytest says it.
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    by = " ".join(word for word in (worker and f"[{worker}]", test and f"for {test}") if word)
    return f"{what} {by}" if by else what


@contextlib.contextmanager
def slowly(
    tell: Callable[[str], None],
    what: str,
    detail: Callable[[], str] = str,
    *,
    first: float = _FIRST,
    again: float = _AGAIN,
) -> Iterator[None]:
    """Say what is done in the ``with`` block if it takes long, now and then, with the time it took.

    Args:
        tell: writes a line; called from a thread. If it has a method ``redraw``, as a terminal's,
            and that returns True, the line is redrawn in place.
        what: is done.
        detail: how far it is, as the guest's last console line; may be empty.
        first: seconds until the first line.
        again: seconds until each further one, where they are not redrawn in place.
    """
    began = clock.now()
    over = threading.Event()
    redraw: Callable[[str], bool] = getattr(tell, "redraw", lambda _line: False)

    def watch() -> None:
        wait = first
        redrawn = False
        while not over.wait(wait):
            seen = ""
            # In a thread, whose errors pytest blames on the test.
            with noting(f"vmports: how far {what} is", tell):
                seen = detail()
            seconds = clock.now() - began
            line = f"vmports: {what}, {seconds:.0f} s so far{f': {seen}' if seen else ''}"
            redrawn = redraw(line)
            if not redrawn:
                tell(line)
            wait = min(again, _REDRAW) if redrawn else again
        if redrawn:
            redraw("")

    thread = threading.Thread(target=watch, name="vmports-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
