"""Which packets count as the guest's answer to a connection."""

from __future__ import annotations

import struct

import pytest
from frames import ACK, SYN, tcp, udp

from pytest_vmports.errors import MonitorError
from pytest_vmports.network import handshake
from pytest_vmports.network.handshake import accepted

PORT, RST, FIN, PSH = 8080, 0x04, 0x01, 0x08
CLIENT = "192.168.127.1"


def answer(flags=SYN | ACK, *, port=PORT, **header):
    """Return a segment from the guest's ``port``."""
    return tcp(CLIENT, 40000, flags=flags, source_port=port, **header)


def pcap(*frames, longest=96):
    """Return a file as QEMU's filter-dump writes it."""
    head = struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, longest, 1)
    packets = (
        struct.pack("=IIII", 1, 2, min(len(frame), longest), len(frame)) + frame[:longest]
        for frame in frames
    )
    return head + b"".join(packets)


def test_a_syn_ack_from_the_guests_port_counts():
    assert accepted(pcap(answer()), PORT)


def test_it_counts_wherever_it_stands_among_others():
    others = [tcp(CLIENT, PORT), udp(CLIENT, 53), answer(ACK), b"", b"short"]
    assert not accepted(pcap(*others), PORT)
    assert accepted(pcap(*others, answer(), *others), PORT)


def test_a_longer_header_is_skipped():
    assert accepted(pcap(answer(options=bytes(8))), PORT)


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(answer(port=PORT + 1), id="another port of the guest's"),
        pytest.param(answer(port=PORT + 0x100), id="a port that differs in its first byte"),
        pytest.param(
            tcp(CLIENT, PORT, flags=SYN | ACK, source_port=40000), id="to the port, not from it"
        ),
        pytest.param(answer(source="192.168.127.3"), id="another address"),
        pytest.param(answer(source=CLIENT), id="the gateway's address"),
        pytest.param(answer(SYN), id="a wish to connect"),
        pytest.param(answer(ACK), id="an acknowledgement"),
        pytest.param(answer(RST | ACK), id="a refusal"),
        pytest.param(answer(FIN | ACK), id="an end"),
        pytest.param(answer(PSH | ACK), id="data"),
        pytest.param(udp(CLIENT, 40000, bytes(13) + b"\x12", source_port=PORT), id="UDP"),
        pytest.param(answer(kind=0x86DD), id="not IPv4"),
        pytest.param(answer()[:47], id="cut before the flags"),
        pytest.param(answer()[:14], id="a bare Ethernet header"),
    ],
)
def test_nothing_else_counts(frame):
    assert not accepted(pcap(frame), PORT)


@pytest.mark.parametrize(
    ("frame", "heard"),
    [(answer(RST | ACK), False), (answer(), True), (answer(port=PORT + 1), None)],
    ids=["a reset", "an acceptance", "of another port"],
)
def test_a_guest_that_was_not_heard_of_is_told_from_one_that_refused(frame, heard):
    assert accepted(pcap(frame), PORT) is heard


@pytest.mark.parametrize("size", [0, 10, 24, 30, 40, 60])
def test_a_file_that_is_only_begun_proves_nothing_and_is_no_error(size):
    assert not accepted(pcap(answer())[:size], PORT)


class Qemu:
    """Writes the packets it is told to, as its filter-dump would."""

    def __init__(self, *, dies=False):
        self.asked, self.dies = [], dies

    def execute(self, command, **arguments):
        self.asked.append((command, arguments))
        if command == "object-del" and self.dies:
            raise MonitorError(command=command, reply="it hung up")


@pytest.mark.parametrize("dies", [False, True])
def test_a_watch_sees_the_answer_once_it_is_there_and_leaves_no_packets(tmp_path, dies):
    file, qemu = tmp_path / "handshake.pcap", Qemu(dies=dies)
    with handshake.watch(qemu, "n0", file, PORT) as answered:
        ((command, asked),) = qemu.asked
        assert (command, asked["netdev"], asked["file"]) == ("object-add", "n0", str(file))
        file.write_bytes(pcap(answer(port=PORT + 1)))
        assert not answered()
        file.write_bytes(pcap(answer(port=PORT + 1), answer()))
        assert answered()
    assert qemu.asked[-1] == ("object-del", {"id": asked["id"]})
    assert file.read_bytes() == b""
