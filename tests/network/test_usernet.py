"""QEMU's user network: the words we say to QEMU and those we read."""

import pytest

from pytest_vmports import ExposedPort
from pytest_vmports.errors import ForwardError, MachineError, MonitorError
from pytest_vmports.network.usernet import (
    NO_CARD,
    NoNetwork,
    UsernetWiring,
    card_args,
    hostfwd,
    netdev,
    network_card,
)

WEB = ExposedPort(internal=8080, external=20417)
DNS = ExposedPort(internal=53, external=20418, protocol="udp")


class Monitor:
    """Answers every line with the same text and remembers what it was asked."""

    def __init__(self, reply=""):
        self.reply = reply
        self.asked = []
        self.refuses = ()

    def hmp(self, line):
        self.asked.append(line)
        return self.reply

    def give_and_hmp(self, descriptor, name, line):
        self.give(descriptor, name)
        return self.hmp(line)

    def give(self, descriptor, name):
        self.asked.append(("getfd", descriptor, name))

    def execute(self, command, **arguments):
        self.asked.append((command, *arguments.values()))
        if command in self.refuses:
            raise MonitorError(command=command, reply="no such descriptor")


def usernet_info(*rows):
    """Return a reply of QEMU 7.2 to ``info usernet``."""
    head = (
        "Hub -1 (n0):\r\n"
        "  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n"
    )
    return head + "".join(f"  {row}\r\n" for row in rows)


def row(state, protocol="TCP", host_port=20417):
    return f"{protocol}[{state}]   17       127.0.0.1 {host_port}   192.168.127.2  8080     0     0"


def accepted(reply, port=WEB):
    with UsernetWiring((WEB, DNS)).watch(port, Monitor(reply)) as answered:
        return answered()


def test_a_connection_that_was_there_before_proves_nothing():
    """A guest that was reset has left it so."""
    wiring, old = UsernetWiring((WEB, DNS)), row("ESTABLISHED")
    with wiring.watch(WEB, Monitor(usernet_info(old))) as answered:
        assert answered()
    seen = Monitor(usernet_info(old))
    with wiring.watch(WEB, seen) as answered:
        assert not answered()
        seen.reply = usernet_info(old, row("SYN_SENT").replace("  17 ", "  21 "))
        assert not answered()
        seen.reply = usernet_info(old, row("ESTABLISHED").replace("  17 ", "  21 "))
        assert answered()


@pytest.mark.parametrize(
    ("port", "rule"),
    [
        (WEB, "tcp:127.0.0.1:20417-192.168.127.2:8080"),
        (DNS, "udp:127.0.0.1:20418-192.168.127.2:53"),
        (
            ExposedPort(internal=1, external=1024, host="127.0.0.2"),
            "tcp:127.0.0.2:1024-192.168.127.2:1",
        ),
    ],
)
def test_a_forward_is_a_hostfwd_rule(port, rule):
    assert hostfwd(port) == rule


def test_each_port_is_forwarded_in_its_order():
    text = netdev((WEB, DNS), restrict=True)
    rules = [part for part in text.split(",") if part.startswith("hostfwd=")]
    assert rules == [f"hostfwd={hostfwd(WEB)}", f"hostfwd={hostfwd(DNS)}"]


@pytest.mark.parametrize(("restrict", "word"), [(True, "on"), (False, "off")])
def test_the_guest_is_shut_in_or_not(restrict, word):
    assert f",restrict={word}," in netdev((), restrict=restrict) + ","


def test_the_guests_addresses_are_those_of_gvproxy():
    parts = netdev((), restrict=True).split(",")
    assert parts[0] == "user"
    assert {"net=192.168.127.0/24", "host=192.168.127.1", "dhcpstart=192.168.127.2"} < set(parts)


def test_the_card_hangs_on_the_network_and_boots_nothing():
    option, card = network_card()
    assert option == "-device"
    assert card == "virtio-net-pci,netdev=n0,mac=5a:94:ef:e4:0c:ee,romfile=,guest_announce=off"


def test_the_arguments_are_the_network_and_its_card():
    netdevs = ["-netdev", netdev((WEB,), restrict=False)]
    assert card_args((WEB,), restrict=False) == [*netdevs, *network_card()]


def test_a_user_network_needs_nothing_beside_qemu():
    wiring = UsernetWiring((WEB,))
    assert (list(wiring.start([5, 6])), list(wiring.processes())) == ([], [])
    wiring.look_for_opened()
    wiring.stop()


@pytest.mark.parametrize(
    "state", ["ESTABLISHED", "CLOSE_WAIT", "FIN_WAIT_1", "FIN_WAIT_2", "CLOSING", "LAST_ACK"]
)
def test_a_connection_that_went_beyond_the_first_packet_was_answered(state):
    assert accepted(usernet_info(row("HOST_FORWARD"), row(state)))


@pytest.mark.parametrize("state", ["HOST_FORWARD", "SYN_SENT", "SYN_RCVD", "CLOSED", "LISTEN"])
def test_a_connection_that_waits_for_the_guest_was_not_answered(state):
    assert not accepted(usernet_info(row("HOST_FORWARD"), row(state)))


def test_what_other_ports_do_proves_nothing():
    assert not accepted(usernet_info(row("ESTABLISHED", host_port=20418)))
    assert not accepted(usernet_info(row("ESTABLISHED", host_port=2041)))
    assert not accepted(usernet_info(row("ESTABLISHED", protocol="UDP")))


def test_a_guests_own_connection_from_that_number_proves_nothing():
    own = "TCP[ESTABLISHED]   17   192.168.127.2 40000       127.0.0.1 20417     0     0"
    assert not accepted(usernet_info(own))


@pytest.mark.parametrize("reply", ["", "unknown command: 'info usernet'\r\n", "\r\n\r\n"])
def test_an_odd_reply_proves_nothing(reply):
    assert not accepted(reply)


def test_the_monitor_is_asked_anew_each_time():
    monitor = Monitor(usernet_info(row("SYN_SENT")))
    with UsernetWiring((WEB,)).watch(WEB, monitor) as answered:
        assert not answered()
        monitor.reply = usernet_info(row("ESTABLISHED"))
        assert answered()
    assert monitor.asked == ["info usernet"] * 2


def refusal(port, program="qemu-system-x86_64"):
    rule = hostfwd(port)
    return (
        f"{program}: -netdev {netdev((WEB, DNS), restrict=True)}: "
        f"Could not set up host forwarding rule '{rule}'\n"
    )


@pytest.mark.parametrize("port", [WEB, DNS])
def test_the_forward_that_qemu_refuses_is_named(port):
    found, detail = UsernetWiring((WEB, DNS)).refused("a warning\n" + refusal(port))
    assert found == port
    assert detail == f"Could not set up host forwarding rule '{hostfwd(port)}'"


def test_a_guest_port_is_not_taken_for_the_host_port_of_another_forward():
    other = ExposedPort(internal=80, external=8080)
    found, _ = UsernetWiring((other, WEB)).refused(refusal(WEB))
    assert found == WEB


def test_one_number_for_tcp_and_udp_is_told_apart():
    tcp = ExposedPort(internal=53, external=20418)
    found, _ = UsernetWiring((tcp, DNS)).refused(refusal(DNS))
    assert found == DNS


@pytest.mark.parametrize(
    "output", ["", "qemu-system-x86_64: -m 1: out of memory\n", "port 127.0.0.1:20417 is fine\n"]
)
def test_other_output_refuses_no_forward(output):
    assert UsernetWiring((WEB,)).refused(output) is None


def test_a_forward_can_be_added_and_taken_away():
    wiring, monitor = UsernetWiring((WEB,), restrict=False), Monitor()
    wiring.add_forward(DNS, 7, monitor)
    assert wiring.ports == (WEB, DNS)
    monitor.reply = "host forwarding rule for tcp:127.0.0.1:20417 removed\r\n"
    wiring.remove_forward(WEB, None, monitor)
    assert wiring.ports == (DNS,)
    assert monitor.asked == [
        ("getfd", 7, "lease-udp-20418"),  # before it binds the port
        "hostfwd_add n0 udp:127.0.0.1:20418-192.168.127.2:53",
        "hostfwd_remove n0 tcp:127.0.0.1:20417",
    ]


@pytest.mark.parametrize("restarted", [False, True], ids=["", "by a QEMU that inherited it"])
def test_a_lease_that_qemu_was_given_is_given_up_with_its_forward(restarted):
    wiring, monitor = UsernetWiring((WEB,)), Monitor("… removed\r\n")
    monitor.refuses = ("closefd",) if restarted else ()
    wiring.remove_forward(WEB, 7, monitor)
    assert monitor.asked[1:] == [("closefd", "lease-tcp-20417")]
    assert wiring.ports == ()


def test_udp_whose_answers_would_be_dropped_is_refused_before_qemu_is_asked():
    wiring, monitor = UsernetWiring((WEB,)), Monitor()
    with pytest.raises(MachineError, match="needs a UDP port from its start on"):
        wiring.add_forward(DNS, 7, monitor)
    assert (wiring.ports, monitor.asked) == ((WEB,), [])


def test_a_refusal_while_running_is_read_from_the_text():
    wiring = UsernetWiring(())
    monitor = Monitor("could not set up host forwarding rule 'tcp:…'\r\n")
    with pytest.raises(ForwardError) as caught:
        wiring.add_forward(WEB, 7, monitor)
    assert monitor.asked[-1] == ("closefd", "lease-tcp-20417")
    assert (caught.value.port, caught.value.protocol) == (20417, "tcp")
    assert wiring.ports == ()


def test_a_forward_whose_lease_qemu_did_not_take_does_not_stay():
    class Full(Monitor):
        """Has no descriptor left, and binds the port all the same."""

        def give_and_hmp(self, descriptor, name, line):
            self.hmp(line)
            raise MonitorError(command="getfd", reply="no descriptor")

    wiring, monitor = UsernetWiring(()), Full()
    with pytest.raises(MonitorError, match="no descriptor"):
        wiring.add_forward(WEB, 7, monitor)
    assert monitor.asked[-1] == "hostfwd_remove n0 tcp:127.0.0.1:20417"
    assert wiring.ports == ()


def test_what_is_not_forwarded_cannot_be_taken_away():
    wiring = UsernetWiring((WEB,))
    monitor = Monitor("host forwarding rule for tcp:127.0.0.1:20417 not found\r\n")
    with pytest.raises(MachineError, match="not found"):
        wiring.remove_forward(WEB, 7, monitor)
    assert len(monitor.asked) == 1  # its lease stays
    assert wiring.ports == (WEB,)


def test_no_network_is_no_card_and_no_forward():
    wiring = NoNetwork()
    assert NO_CARD == ("-nic", "none")
    assert (wiring.ports, list(wiring.processes())) == ((), [])
    with pytest.raises(MachineError, match="no network card"):
        wiring.add_forward(WEB, 7, Monitor())
    with pytest.raises(MachineError, match="no network card"):
        wiring.remove_forward(WEB, None, Monitor())
