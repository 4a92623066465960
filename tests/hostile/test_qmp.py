"""A QEMU that a guest owns, and what it answers over QMP once it has greeted as it should."""

from __future__ import annotations

import contextlib
import json
import socket
import threading

import pytest
from folded import folded

from pytest_vmports.errors import GuestSaidError, MonitorError
from pytest_vmports.vm import monitor as module
from pytest_vmports.vm.monitor import Monitor

GREETING = b'{"QMP": {"version": {"qemu": {"major": 7, "minor": 2}}, "capabilities": []}}\n'
RIGHT = {"status": "running", "running": True}


def line(**members):
    return json.dumps(members).encode() + b"\n"


def refusal(number, desc):
    return line(id=number, error={"class": "GenericError", "desc": desc})


# What comes in the place of an answer to a question with this number; b"" is silence.
WRONG = {
    "silence": lambda _: b"",
    "the answer to another": lambda _: line(**{"id": "__qmp#99999", "return": RIGHT}),
    "the answer to the next": lambda n: line(
        **{"id": f"__qmp#{int(n[-5:]) + 1:05d}", "return": RIGHT}),
    "an answer to nobody": lambda _: line(**{"return": RIGHT}),
    "an id that is a number": lambda _: line(**{"id": 3, "return": RIGHT}),
    "an id that is a list": lambda _: line(**{"id": [], "return": RIGHT}),
    "an id that is a mapping": lambda _: line(**{"id": {}, "return": RIGHT}),
    "an answer and an error": lambda n: line(
        **{"id": n, "return": RIGHT, "error": {"class": "x", "desc": "y"}}),
    "no error": lambda n: line(id=n, error=None),
    "an error of another shape": lambda n: line(id=n, error={"class": 3}),
    "an error of nobody's": lambda _: line(error={"class": "x", "desc": "y"}),
    "an error without end": lambda n: refusal(n, "\x1b[2J\n::error::" + "x" * 1_000_000),
    "a greeting": lambda _: GREETING,
    "an event that is a number": lambda _: line(event=3),
    "a list": lambda _: b"[]\n",
    "nothing": lambda _: b"\n",
    "nesting": lambda _: b"[" * 100_000 + b"\n",
    "deeper answers": lambda _: b'{"return": ' * 50_000 + b"\n",
    "more digits than int() takes": lambda n: b'{"id": "%s", "return": %s}\n' % (
        n.encode(), b"9" * 5000),
    "no text": lambda _: b'{"return": "\xff"}\n',
    "no number": lambda n: b'{"id": "%s", "return": NaN}\n' % n.encode(),
    "a truth that is a number": lambda n: line(
        **{"id": n, "return": {"status": "running", "running": 1}}),
    "a line without end": lambda _: b"x" * (11 << 20) + b"\n",
    "half an answer and the end": lambda n: line(**{"id": n, "return": RIGHT})[:-9] + b"\0end",
}  # fmt: skip


@contextlib.contextmanager
def qemu_that_says(answer):
    """Yield a monitor of one; ``answer`` is given each question's number."""
    ours, theirs = socket.socketpair()

    def talk():
        with theirs, contextlib.suppress(OSError):
            theirs.sendall(GREETING)
            while said := theirs.recv(1 << 16):
                question = json.loads(said)
                if question["execute"] == "qmp_capabilities":
                    number = {"id": question["id"]} if "id" in question else {}
                    theirs.sendall(line(**{"return": {}}, **number))
                    continue
                told = answer(question["id"])
                theirs.sendall(told.removesuffix(b"\0end"))
                if told.endswith(b"\0end"):
                    return

    talking = threading.Thread(target=talk)
    talking.start()
    monitor = Monitor(ours)
    try:
        assert monitor.connect(20)
        yield monitor
    finally:
        monitor.close()
        talking.join()


@folded("said", WRONG)
def test_what_is_no_answer_is_an_error_of_ours_that_is_short_and_names_it(monkeypatch, said):
    monkeypatch.setattr(module, "_CALL_SECONDS", 0.1)
    with qemu_that_says(WRONG[said]) as monitor:
        for ask in (lambda: monitor.run_state(0.1), lambda: monitor.run_state(0.1)):
            with pytest.raises((GuestSaidError, MonitorError), match="QEMU") as caught:
                ask()
            assert len(str(caught.value)) < 3000
            assert "\x1b" not in str(caught.value)


def test_an_answer_that_comes_twice_is_the_answer_to_one_question():
    answers = iter([{"status": "paused", "running": False}, {"status": "running", "running": True}])
    with qemu_that_says(lambda n: line(**{"id": n, "return": next(answers)}) * 2) as monitor:
        assert [monitor.run_state().status for _ in range(2)] == ["paused", "running"]
