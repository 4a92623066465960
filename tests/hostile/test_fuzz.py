"""Each parser of what a guest says takes near-valid inputs, and raises nothing but our own errors.

`PARSERS` is the inventory of them: a new one gets a row. What a guest may own counts as it: gvproxy
and QEMU.
"""

from __future__ import annotations

import ast
import contextlib
import io
import itertools
import json
import math
import mmap
import socket
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from frames import SYN, arp, ip, tcp, udp
from fuzz import COUNT, Parser, changed_bytes, changed_json, changed_text, changed_value, fuzz

import pytest_vmports
from pytest_vmports import ExposedPort
from pytest_vmports.constants import GUEST_IP, HOST_IP, UDP_RELAY_IP, UDP_RELAY_MAC
from pytest_vmports.errors import MachineError
from pytest_vmports.guests import cloud_init
from pytest_vmports.network import (
    gvproxy,
    gvproxy_api,
    handshake,
    host_frames,
    udp_frames,
    usernet,
)
from pytest_vmports.system.said import shaped
from pytest_vmports.vm import (
    console,
    crash_dump,
    crashes,
    hints,
    last_words,
    qmp_answers,
    readiness,
    sharing,
    stillness,
)
from pytest_vmports.vm.inside import listening, own_address, qemu_agent, ssh
from pytest_vmports.vm.inside.agent_shell import AgentShell
from pytest_vmports.vm.inside.control import CLOCK, READY, Control, Frames
from pytest_vmports.vm.inside.window import SIZE, open_window
from pytest_vmports.vm.monitor import Monitor

PACKAGE = Path(pytest_vmports.__file__).parent
PORT = ExposedPort(internal=8080, external=20417, host="127.0.0.1", protocol="tcp")


def frame(kind, payload=b""):
    return kind.encode() + len(payload).to_bytes(3, "little") + payload


def frames_in(data):
    frames, found = Frames(), []
    for part in (data[:7], data[7:]):
        frames.feed(part)
        while (one := frames.next()) is not None:
            found.append(one)
    return found


@contextlib.contextmanager
def guest_says(data):
    """Yield our end of a channel on which the guest says this, and hangs up."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while data:
                data = data[theirs.send(data) :]
        theirs.shutdown(socket.SHUT_WR)
        try:
            yield ours
        except ConnectionError as error:  # the VM's own end, told by `failures.cause_first`
            raise MachineError("hung up") from error


def number_of(data):
    with guest_says(data) as ours:
        return Control(ours).await_number(READY, math.inf, lambda: None)


def run_by_agent(data):
    with guest_says(data) as ours:
        return AgentShell(Control(ours), lambda: None).execute("true", timeout=None, input=b"in")


def run_by_window(data):
    with contextlib.ExitStack() as until_spawned, guest_says(data) as ours:
        window, file = open_window(until_spawned)
        with mmap.mmap(file, SIZE) as of_guest:
            of_guest[16:32] = of_guest[:16]
        with contextlib.closing(Control(ours, window)) as control:
            control.await_number(READY, math.inf, lambda: None)
            return AgentShell(control, lambda: None).execute("true", timeout=None, input=b"in")


def run_by_qemu_agent(data):
    with guest_says(data) as ours:
        agent = qemu_agent.GuestAgent(ours)
        agent._numbers = itertools.count(7)
        return agent.run("true", timeout=None)


def answer_as(shape):
    return lambda line: qemu_agent.answer_in(line, shape)


class Told(Monitor):
    """Is told what QEMU answers."""

    def __init__(self, value):
        super().__init__(None)
        self.value = value

    def _execute(self, *_):
        return self.value

    def give(self, *_):
        """Hand a descriptor over."""

    def _give(self, *_, **__):
        return self.value


def asked(question, *arguments):
    return lambda value: getattr(Told(value), question)(*arguments)


def why_ended(value):
    monitor = Told(None)
    monitor._ends = SimpleNamespace(history=[{"data": value}])
    return monitor.why_ended()


def put_in_place(data):
    with tempfile.TemporaryFile() as target:
        try:
            crash_dump._put_in_place(io.BytesIO(data), target)
        except OSError as error:  # as that it has no end
            raise MachineError(str(error)) from error


def watched(text):
    watch = crashes.Watch()
    watch.feed(text[:50])
    watch.feed(text[50:])
    return [str(one) for one in watch.found], watch.begun


SERVED = {"local": "127.0.0.1:20417", "remote": "192.168.127.2:80", "protocol": "tcp"}
RAN = frame("A") + frame("A") + frame("O", b"out") + frame("E", b"err") + frame("X", b"0")
SAW = b"".join(
    (
        frame(READY, b"0"),
        frame("A"),
        frame("o", b"600000"),
        frame("e", b"300"),
        frame("X", b"0"),
    )
)
SYNCED = b'\xff{"return": 7}\n'
STARTED, ENDED = {"return": {"pid": 300}}, {
    "return": {"exited": True, "exitcode": 3, "out-data": "QUJD", "out-truncated": False}
}  # fmt: skip
KILLED = {"return": {"exited": True, "signal": 9, "err-data": "QUI=", "err-truncated": True}}
FORBIDDEN = {"error": {"class": "CommandNotFound", "desc": "guest-exec has been disabled"}}
LINES = [json.dumps(one).encode() + b"\n" for one in (STARTED, ENDED, KILLED, FORBIDDEN)]
FINISHED = {"v1": {"datasource": "DataSourceNoCloud", "errors": ["('x', RuntimeError('y'))"]}}
TABLES = (
    b"servers\n   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0\n"
    b"   1: 0000000000000000FFFF00000100007F:0016 00000000000000000000000000000000:0000 0A 0\n"
    b"datagrams\n  9: 00000000:14E9 00000000:0000 07 00000000:00000000 00:00000000 00000000     0\n"
    b"cards\neth0 5a:94:ef:e4:0c:ee 0x1003\nlo 00:00:00:00:00:00 0x9\n"
    b"addresses\n2: eth0    inet 192.168.127.7/24 brd 192.168.127.255 scope global eth0\nend\n"
)
USERNET = (
    "Hub -1 (n0):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ\r\n"
    "  TCP[HOST_FORWARD]   17       127.0.0.1 20417   192.168.127.2  8080     0     0\r\n"
    "  TCP[ESTABLISHED]   18       127.0.0.1 20417   192.168.127.2  8080     0     0\r\n"
)
REGISTERS = (
    "CPU#0\r\nEAX=00000000 EBX=00000000\r\nRIP=ffffffff81 RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 "
    "SMM=0 HLT=1\r\nCR0=80050033 CR2=00007f CR3=0000 CR4=000006f0\r\n"
)
CONSOLE = (
    "Linux version 6.18\r\n[    1.000000] \x1b[1mBooting\x1b[0m\r\n[    2.5] BUG: kernel NULL "
    "pointer dereference, address: 0000000000000000\r\n[    2.6] Oops: 0002 [#1] SMP\r\n"
    "[    2.7] ---[ end trace 0000000000000000 ]---\r\n[    3.0] Out of memory: Killed process 7 "
    "(x)\r\n[FAILED] Failed to start cloud-init.service\r\n[    9.9] Kernel panic - not syncing: "
    "Fatal exception\r\n---[ end Kernel panic - not syncing: Fatal exception ]---\r\n"
)
STUCK = (
    "BdsDxe: No bootable option or device was found.\r\n",
    "Begin: Running /scripts/local-premount\r\n(initramfs) ",
    "Press Enter for maintenance\r\n(or press Control-D to continue): ",
    "Please enter passphrase for disk vda2: ",
)  # fmt: skip
HTTP = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n[]",
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 21\r\n\r\naddress already in use",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 404 Not Found\r\n\r\nno",
]
RELAY = bytes.fromhex(UDP_RELAY_MAC.replace(":", ""))
MORE, LONGEST_FRAME = 0x2000, 65536
DATAGRAMS = [
    udp(UDP_RELAY_IP, 32768, source_port=53, mac=RELAY),
    ip(UDP_RELAY_IP, 17, bytes(64), mac=RELAY, fragment=MORE),
    ip(UDP_RELAY_IP, 17, bytes(64), mac=RELAY, fragment=8),
    udp(UDP_RELAY_IP, 9, b"", mac=RELAY, options=bytes(8)),
    arp(UDP_RELAY_IP),
]
TO_HOST = [tcp(HOST_IP, 8000, mac=host_frames.MAC), arp(HOST_IP), udp(HOST_IP, 53)]
GUEST = socket.inet_aton(GUEST_IP)
PACKETS = [tcp("192.168.127.1", 40000, flags=SYN | 0x10, source_port=8080), arp("192.168.127.1")]
PCAP = bytes(24) + b"".join(bytes(8) + len(one).to_bytes(4, "little") * 2 + one for one in PACKETS)
DUMP = (
    bytes(crash_dump._FLAT_HEADER) + crash_dump._PIECE.pack(0, 4) + b"KDUM"
    + crash_dump._PIECE.pack(4, 4) + b"P   " + crash_dump._PIECE.pack(-1, -1)
)  # fmt: skip


def fits_a_card(value):
    """Whether a frame is of a size that a card takes."""
    return value is None or 14 <= len(value) <= LONGEST_FRAME


def read_all(receiver):
    return lambda data: (receiver.read(data), udp_frames.arp_answer(data))


PARSERS = [
    # The control channel.
    Parser(
        "vm.inside.control.Frames.next", frames_in, [RAN, frame(READY, b"7") + frame(CLOCK, b"0")],
        changed_bytes, lambda all_: all(k in "VCNTXAOEoe" and len(p) <= 4096 for k, p in all_),
    ),
    Parser(
        "vm.inside.control.Control.receive by the window", run_by_window, [SAW],
        changed_bytes, lambda done: -64 <= done[0] <= 255 and len(done[1]) <= 2 << 20,
    ),
    Parser(
        "vm.inside.control.Control.await_number", number_of,
        [frame(CLOCK, b"1") + frame(READY, b"7")], changed_bytes,
        lambda number: 0 <= number <= 255,
    ),
    Parser(
        "vm.inside.control.Control.refused", run_by_agent, [RAN], changed_bytes,
        lambda done: -64 <= done[0] <= 255,
    ),
    # QEMU's guest agent.
    *(
        Parser(
            f"vm.inside.qemu_agent.answer_in {shape.__name__}", answer_as(shape), samples, mutate,
            fits,
        )
        for shape, samples, fits in (
            (qemu_agent.Started, [STARTED, FORBIDDEN], lambda one: is_complaint(one)
             or (type(one.pid) is int and 0 < one.pid < 1 << 31)),
            (qemu_agent.Status, [ENDED, KILLED, {"return": {"exited": False}}], lambda one:
             is_complaint(one) or is_status(one)),
            (int, [{"return": 7}], lambda one: is_complaint(one) or type(one) is int),
        )
        for mutate in (changed_json,)
    ),
    Parser(
        "vm.inside.qemu_agent.GuestAgent._line", run_by_qemu_agent,
        [SYNCED + LINES[0] + LINES[1], SYNCED + LINES[0] + LINES[2]], changed_bytes,
        lambda done: 0 <= done[0] <= 192 + 64 and {type(one) for one in done[1:]} == {bytes},
    ),
    Parser("vm.inside.qemu_agent._decoded", answer_as(qemu_agent.Status), LINES, changed_bytes),
    # cloud-init.
    Parser(
        "guests.cloud_init.result_in", lambda text: cloud_init.result_in(text.decode()),
        [FINISHED, {"v1": {"errors": []}}], lambda *given: changed_json(*given).decode(
            errors="replace").encode("utf-8", "replace"),
        lambda one: one is None or all(type(error) is str for error in one.errors),
    ),
    Parser(
        "guests.cloud_init.verdict", lambda text: (
            cloud_init.verdict(text), cloud_init.failure(text)),
        [f"boot\r\nvmports-cloud-init: {json.dumps(FINISHED)} :vmports\r\n" * 3], changed_text,
    ),
    # Commands' answers.
    Parser("vm.inside.listening.heard", listening.heard, [TABLES], changed_bytes,
           lambda one: one.network.isprintable() and all(
               0 <= port < 1 << 16 for _, port in one.servers)),
    Parser("vm.inside.own_address.found_in", own_address.found_in,
           [b"socket 1F90\nprogram sh\nfile /etc/hosts\nend\n", b"card\nsearch\nend\n", b"end\n"],
           changed_bytes, lambda why: why is None or (why.isprintable() and len(why) < 300)),
    Parser("vm.inside.ssh.status_at_the_end", ssh.status_at_the_end, [b"out000", b"127"],
           changed_bytes, lambda code: 0 <= code <= 255),
    Parser("vm.readiness.http_status", readiness.http_status, [b"HTTP/1.1 200 OK", b"HTTP/1.0 404"],
           changed_bytes, lambda status: status is None or 100 <= status <= 999),
    # QEMU.
    Parser("vm.monitor.Monitor.run_state", asked("run_state"),
           [{"status": "io-error", "running": False, "singlestep": False}], changed_value,
           lambda one: type(one.status) is str and type(one.running) is bool),
    Parser("vm.monitor.Monitor.disk_operations", asked("disk_operations"), [
        [{"device": "", "stats": {"rd_operations": 3, "wr_operations": 1 << 33}}]], changed_value,
        lambda all_: all(type(n) is int and n >= 0 for one in all_ for n in one)),
    Parser("vm.sharing.plugged", lambda value: sharing.plugged(Told(value)),
           [[{"name": "type", "type": "string"}, {"name": "share0", "type": "child<x>"}]],
           changed_value, lambda all_: all(type(one) is str for one in all_)),
    Parser("vm.monitor.Monitor._hmp", asked("hmp", "info usernet"), [USERNET], changed_value,
           lambda one: type(one) is str),
    Parser("vm.monitor.Monitor.give_and_hmp", asked("give_and_hmp", 0, "name", "hostfwd_add"),
           [""], changed_value, lambda one: type(one) is str),
    Parser("vm.monitor.Monitor.dump", lambda value: Told(value).dump(0, 1.0),
           [{"formats": ["elf", "kdump-zlib"]}], changed_value),
    Parser("vm.monitor.Monitor.why_ended", why_ended, [{"guest": True, "reason": "guest-reset"}],
           changed_value, lambda one: type(one) is str and one.isprintable()),
    *(
        Parser(f"vm.monitor.{where} {shape.__name__}", lambda value, shape=shape: shaped(
            "QEMU", value, shape), [sample], changed_value)
        for where, shape, sample in (
            ("Monitor._connect", qmp_answers.Greeting, {"qemu": {"major": 7, "minor": 2}}),
            ("Monitor._migration", qmp_answers.Migration, {"status": "completed"}),
            ("Monitor._by_set", qmp_answers.Set, {"fdset-id": 3, "fd": 12}),
        )
    ),
    Parser("network.usernet.accepted", lambda text: usernet.accepted(text, PORT), [USERNET],
           changed_text, lambda found: all(len(one) <= 20 for one in found)),
    Parser("vm.stillness.processors", stillness.processors, [REGISTERS * 2], changed_text),
    Parser("vm.crash_dump._put_in_place", put_in_place, [DUMP], changed_bytes),
    Parser("vm.crash_dump._name_kernel", lambda data: crash_dump._name_kernel(io.BytesIO(data)),
           [b"KDUMP   " + bytes(500) + b"OSRELEASE=6.18-virt\n"], changed_bytes),
    # gvproxy.
    Parser("network.gvproxy_api.answer_in", lambda data: gvproxy_api.answer_in(data, "GET"), HTTP,
           changed_bytes, lambda one: 100 <= one[0] <= 999 and type(one[1]) is str),
    Parser("network.gvproxy_api.forwards_in", gvproxy_api.forwards_in, [[SERVED, SERVED]],
           changed_json, lambda all_: all({type(one) for one in row.values()} == {str}
                                          and row.keys() == SERVED.keys() for row in all_)),
    Parser("network.gvproxy.port_of", lambda text: gvproxy.port_of(text, [PORT]),
           ["listen tcp 127.0.0.1:20417: bind: address already in use\n"], changed_text),
    # Frames and packets.
    Parser("network.handshake._packets", lambda data: handshake.accepted(data, 8080), [PCAP],
           changed_bytes, lambda one: one in {None, True, False}),
    Parser("network.udp_frames.Receiver.read", read_all(udp_frames.Receiver()), DATAGRAMS,
           changed_bytes, lambda all_: all_[0] is None or 0 <= all_[0].target < 1 << 16),
    Parser("network.udp_frames._datagram", read_all(udp_frames.Receiver()), DATAGRAMS[:1],
           changed_bytes),
    Parser("network.host_frames._is_tcp", lambda data: host_frames.to_host(
        data[:LONGEST_FRAME], GUEST, {8000: 45123}), TO_HOST, changed_bytes, fits_a_card),
    Parser("network.host_frames.refusal", lambda data: host_frames.refusal(data, GUEST), TO_HOST,
           changed_bytes, fits_a_card),
    Parser("network.host_frames.asked_for", host_frames.asked_for, TO_HOST, changed_bytes,
           lambda one: one is None or len(one) == 4),
    # The console, which is searched for words.
    Parser("vm.crashes.Watch.feed", watched, [CONSOLE], changed_text),
    Parser("vm.crashes.passage", crashes.passage, [CONSOLE], changed_text,
           lambda text: len(text) < 200_000),
    Parser("vm.console.shown", console.shown, [CONSOLE], changed_text),
    Parser("vm.hints.of", hints.of, [CONSOLE], changed_text),
    Parser("vm.last_words.last_words", last_words.last_words, STUCK, changed_text),
]  # fmt: skip

# Who reads bytes and has no row of its own, with the reason.
OTHERS = {
    "network.host_frames.mac_bytes": "addresses of ours",
    "network.udp_frames": "its own addresses",
    "network.udp_relay._ignore_others": "its own address",
    "vm.inside.listening._socket": "by vm.inside.listening.heard",
    "network.gvproxy_api._until_the_end": "looks at sizes alone: test_said.py",
    "vm.monitor.Monitor.connect": "the library's: test_said.py",
    **dict.fromkeys(
        (
            "network.names.Names._answer",
            "network.names.Names._from_udp",
            "network.names._by_tcp",
            "network.names._by_udp",
            "network.names._exactly",
            "network.names._message",
            "network.names._read",
        ),
        "by network/test_names.py and hostile/test_net.py",
    ),
    **dict.fromkeys(
        (
            "vm.inside.archive.Archive._head",
            "vm.inside.copying._append",
            "vm.inside.unpack.Unpacking._telling",
        ),
        "by test_fuzz_tar.py",
    ),
    **dict.fromkeys(
        ("network.handshake._flags", "network.host_frames._port", "network.udp_frames.checksum"),
        "by the rows of their modules",
    ),
    "network.guest_frames._number": "addresses of ours",
    "network.links.Link.on_event": "hands frames on: network.host_frames and its row",
    "network.udp_relay.UdpRelay._from_client": "what the test sends to the guest",
    "vm.inside.channel.Channel.receive": "hands bytes on, to rows of their own",
    "vm.readiness.Probe._http": "by vm.readiness.http_status",
    "vm.readiness._first_byte": "whether there is one",
    "vm.qmp_thread.FloodGuard.__call__": "looks at an event's name alone: test_floods.py",
    "vm.qmp_thread.run": "the library's: test_said.py",
}
BOUNDARY = {"said_by", "malformed", "shaped", "json_said", "number_said"}
METHODS = {
    "loads", "unpack", "unpack_from", "iter_unpack", "b64decode", "fromhex", "recv", "recvfrom",
    "from_bytes", "frombuf",
}  # fmt: skip
GUESTS = ("vm.", "network.", "guests.cloud_init")


def is_complaint(one):
    return type(one) is qemu_agent.Complaint and type(one.desc) is str


def is_status(one):
    ends = [number for number in (one.exitcode, one.signal) if number is not None]
    return type(one.exited) is bool and (not one.exited or len(ends) == 1) and 0 <= one.code <= 255


def readers():
    """Yield module and name of each function that reads what it did not make itself."""
    for file in PACKAGE.rglob("*.py"):
        module = ".".join(file.relative_to(PACKAGE).with_suffix("").parts)
        if module != "system.said":
            yield from _readers(ast.parse(file.read_text()), module)


def _readers(node, name):
    for child in ast.iter_child_nodes(node):
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        yield from _readers(child, f"{name}.{child.name}" if inside else name)
        if isinstance(child, ast.Call):
            called = child.func
            word = called.id if isinstance(called, ast.Name) else getattr(called, "attr", "")
            method = isinstance(called, ast.Attribute) and word in METHODS
            if word in BOUNDARY or (method and name.startswith(GUESTS)):
                yield name


def test_the_inventory_is_whole():
    rows = {parser.name.partition(" ")[0] for parser in PARSERS}
    found = set(readers())
    assert found - rows - OTHERS.keys() == set(), "a parser of what a guest says has no row"
    assert OTHERS.keys() - found == set(), "it reads nothing"
    for name in rows:
        module, _, function = name.rpartition(".")
        assert f"def {function}(" in _source(module), f"{name} is not there"


def _source(module):
    file = PACKAGE / f"{module.replace('.', '/')}.py"
    return file.read_text() if file.exists() else file.parent.with_suffix(".py").read_text()


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_a_parser_raises_nothing_but_our_errors(parser, monkeypatch):
    for name in ("_FIRST_LOOK_SECONDS", "_LOOK_SECONDS"):
        monkeypatch.setattr(qemu_agent, name, 0.0)
    # Near-valid: a generator whose inputs are all refused shows nothing.
    assert fuzz(parser) > COUNT / 100
