"""The control channel: frames however they come, and what is sent."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time

import pytest

from pytest_vmports.system.poll import readable
from pytest_vmports.vm.inside import channel as channel_module
from pytest_vmports.vm.inside.control import CLOCK, LARGEST, READY, Control


def alive():
    """Is called while we wait; the VM lives."""


def soon():
    return time.monotonic() + 20


@pytest.fixture
def channel():
    """Return our end of a channel, and the guest's as a socket."""
    ours, guest = socket.socketpair()
    with guest, contextlib.closing(Control(ours)) as control:
        yield control, guest


def frame(kind, payload=b""):
    return kind.encode() + struct.pack("<I", len(payload))[:3] + payload


def test_after_a_reset_all_is_passed_over_until_the_agent_is_ready_again(channel):
    """A frame that was cut, whose rest would be taken from what comes next."""
    control, guest = channel
    guest.sendall(frame("O", bytes(100))[:50])
    assert control.receive(time.monotonic() + 0.01, alive) is None
    control.begin_anew()
    guest.sendall(b"V\1\0 \r\nnoise" + frame("V", b"7"))
    guest.sendall(frame(READY, b"0")[:4])
    assert control.receive(time.monotonic() + 0.01, alive) == (READY, b"7")
    guest.sendall(b"0" + frame("C", b"0"))
    assert control.await_number(CLOCK, soon(), alive) == 0


def test_noise_after_a_reset_is_not_kept(channel):
    control, guest = channel
    control.begin_anew()
    for _ in range(100):
        guest.sendall(bytes(10_000))
        assert control.receive(time.monotonic() + 0.01, alive) is None
    assert len(control._frames._unread) < 100
    guest.sendall(frame(READY, b"255"))
    assert control.await_number(READY, soon(), alive) == 255


def test_frames_come_out_one_by_one_however_they_were_put_together(channel):
    control, guest = channel
    guest.sendall(frame("O", b"one") + frame("E") + frame("O", b"\0" * LARGEST))
    got = [control.receive(soon(), alive) for _ in range(3)]
    assert got == [("O", b"one"), ("E", b""), ("O", b"\0" * LARGEST)]


def test_a_frame_cut_in_pieces_is_put_together(channel):
    control, guest = channel
    whole = frame("O", b"x" * 300) + frame("X", b"0")
    arrived = threading.Semaphore(0)

    def check():
        arrived.release()

    def send():
        for at in range(len(whole)):
            guest.sendall(whole[at : at + 1])
            if at < 6 or at > len(whole) - 6:  # its head, its end: each byte is read by itself
                arrived.acquire(timeout=20)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        assert control.receive(soon(), check) == ("O", b"x" * 300)
        assert control.receive(soon(), check) == ("X", b"0")
    finally:
        arrived.release(400)
        sender.join()


@pytest.mark.parametrize("kept", [0, 1, 3, 4, 10])
def test_half_a_frame_is_none_at_the_deadline_and_the_rest_completes_it(channel, kept):
    control, guest = channel
    whole = frame("O", b"content")
    guest.sendall(whole[:kept])
    assert control.receive(time.monotonic() + 0.05, alive) is None
    guest.sendall(whole[kept:])
    assert control.receive(soon(), alive) == ("O", b"content")


def test_a_frame_of_another_kind_is_passed_over(channel):
    control, guest = channel
    guest.sendall(frame("O", b"77") + frame(CLOCK, b"5") + frame(READY, b"3"))
    assert control.await_number(READY, soon(), alive) == 3


def test_without_a_frame_of_that_kind_there_is_no_number(channel):
    control, guest = channel
    guest.sendall(frame(CLOCK, b"5"))
    assert control.await_number(READY, time.monotonic() + 0.05, alive) is None


def test_a_vm_that_ends_ends_the_waiting(channel, monkeypatch):
    control, _ = channel
    dead, death = socket.socketpair()
    dead.close()
    number = death.fileno()
    control.deaths = [number]
    ready = []

    def noted(*words):
        ready.append(readable(*words))
        return ready[-1]

    def check():
        raise ProcessLookupError

    monkeypatch.setattr(channel_module, "readable", noted)
    with death, pytest.raises(ProcessLookupError):
        control.receive(None, check)
    assert ready == [[number]]  # its death, and not the end of a wait


def received(guest, size):
    got = b""
    while len(got) < size:
        got += guest.recv(size - len(got))
    return got


def test_what_is_sent_has_its_kind_and_its_size_before_it(channel):
    control, guest = channel
    control.send("I", b"\xff" * 300)
    assert received(guest, 304) == b"I\x2c\x01\x00" + b"\xff" * 300


def test_a_clock_is_sent_with_its_fraction(channel):
    control, guest = channel
    control.send_clock(1_700_000_000.25)
    time_spec = struct.pack("<qq", 1_700_000_000, 250_000_000)
    assert received(guest, 20) == b"C\x10\0\0" + time_spec


def test_after_hanging_up_nothing_can_be_sent_and_it_may_be_done_again(channel):
    control, guest = channel
    control.close()
    control.close()
    assert guest.recv(1) == b""
    with pytest.raises(OSError, match="Bad file descriptor"):
        control.send("K")
