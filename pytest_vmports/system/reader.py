"""A command's standard output, whose reader may go before its end, as ``head`` does."""

from __future__ import annotations

import os
import select
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_GONE = 128 + signal.SIGPIPE
"""What a shell says of a program that ended for it."""


def to_reader(command: Callable[[], int]) -> int:
    """Run a command and return its exit status; it ends in silence when nobody reads any more."""
    try:
        try:
            return command()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        if not _nobody_reads():  # another pipe's
            raise
        # What is still in the buffer is written once more at Python's end.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        return _GONE


def _nobody_reads() -> bool:
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))
