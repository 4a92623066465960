"""Services of the host that a guest was let through to, and all others: real VMs."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from pathlib import Path

import pytest
from vm_helpers import (
    GUEST,
    SHELL_PORT,
    addresses,
    ask_shell,
    ask_tcp,
    ask_udp,
    echo,
    host_service,
    listening,
)

from pytest_vmports.constants import GATEWAY_IP, HOST_ALIAS_IP, HOST_IP
from pytest_vmports.errors import MissingWallError
from pytest_vmports.report.evidence import Evidence

MANY = 24


@pytest.fixture(scope="module", params=["usernet", "gvproxy-0.8.1", "gvproxy-0.8.9"])
def wiring(request):
    """Return the settings that choose a wiring."""
    if request.param == "usernet":
        return {}
    program = request.getfixturevalue(request.param.replace("-", "_").replace("0.8.", "08"))
    return {"allow_network": True, "gvproxy": str(program)}


@pytest.fixture(scope="module")
def services():
    """Return services of the host by name; of them, ``secret`` is not for the guest."""
    together = threading.Barrier(MANY)

    def meet(connection):
        together.wait(60)
        connection.sendall(b"all here\n")

    with contextlib.ExitStack() as stack:
        ports = {
            "echo": stack.enter_context(host_service(echo)),
            "meet": stack.enter_context(host_service(meet)),
            "name": stack.enter_context(host_service(lambda c: c.sendall(b"it is me\n"))),
        }
        down = stack.enter_context(socket.socket())
        down.bind(("127.0.0.1", 0))  # and does not listen
        ports["down"] = down.getsockname()[1]
        secret = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        secret.setblocking(False)
        yield {**ports, "secret": secret}


@pytest.fixture(scope="module")
def vm(boot, wiring, services):
    host_ports = {
        8000: services["echo"], 8001: services["meet"], 8002: services["name"],
        8003: services["down"],
    }  # fmt: skip
    with boot(
        SHELL_PORT, 8080, "5353/udp", **wiring, host_ports=host_ports, setup=GUEST,
        wait_for="all", fresh_boot=False,  # a booted one is that which is reset below
    ) as vm:  # fmt: skip
        yield vm


def test_the_guest_reaches_the_service_at_the_asked_port(vm):
    assert ask_shell(vm, f"nc {HOST_IP} 8002") == "it is me\n"
    assert vm.host_address == HOST_IP


def test_its_report_names_the_second_card_and_the_service(vm, services):
    evidence = Evidence([vm._machine])
    (asked, *_) = (text for _, text in evidence.sections(verbosity=0, note=pytest.fail))
    assert f"second card: {vm.lan_address} ({vm._machine.cards.lan_mac})" in asked
    assert f"service of the host: {HOST_IP}:8002 -> 127.0.0.1:{services['name']}" in asked


@pytest.mark.slow_as("0.8.1")
def test_megabytes_go_and_come_back_whole(vm):
    said = ask_shell(
        vm, "head -c 5000000 /dev/urandom >/tmp/data; sha256sum </tmp/data; "
        f"nc {HOST_IP} 8000 </tmp/data | sha256sum",
    )  # fmt: skip
    sent, returned = said.splitlines()
    assert sent == returned


def test_many_connections_are_open_at_the_same_time(vm):
    """The service answers none before all are there."""
    said = ask_shell(vm, f"for i in $(seq {MANY}); do nc {HOST_IP} 8001 & done; wait")
    assert said == "all here\n" * MANY


def test_many_connections_one_after_the_other(vm):
    said = ask_shell(vm, f"for i in $(seq {MANY}); do nc {HOST_IP} 8002; done")
    assert said == "it is me\n" * MANY


def test_a_service_that_is_down_refuses_and_does_not_hang(vm):
    assert_refused(vm, 8003)


def test_another_port_of_the_host_is_refused(vm, services):
    port = services["secret"].getsockname()[1]
    assert_refused(vm, port)
    assert_untouched(services["secret"])


def test_the_number_of_an_asked_service_at_the_host_leads_nowhere(vm, services):
    """The guest has its own numbers for them."""
    assert_refused(vm, services["echo"])


def test_no_other_address_leads_to_the_host(vm, services):
    port = services["secret"].getsockname()[1]
    others = [GATEWAY_IP, "192.168.127.3", HOST_ALIAS_IP]
    ask_shell(vm, "".join(f"nc -w 2 {ip} {port} & " for ip in others) + "wait")
    assert_untouched(services["secret"])


def test_the_forwards_still_work_and_nothing_else_listens(vm):
    assert ask_tcp(vm, 8080, b"over tcp") == b"over tcp"
    assert ask_udp(vm, 5353, b"a datagram") == b"a datagram"
    there = set().union(*(listening(pid) for pid in vm.pids.values()))
    assert there <= addresses(vm.ports)


@pytest.mark.parametrize("network", [False, True])
def test_without_host_ports_nothing_of_the_host_is_reached(boot, services, any_gvproxy, network):
    port = services["secret"].getsockname()[1]
    tries = [f"nc -w 2 {ip} {port} & " for ip in (GATEWAY_IP, HOST_ALIAS_IP, HOST_IP)]
    wired = {"allow_network": network, "gvproxy": str(any_gvproxy)}
    with boot(SHELL_PORT, setup=GUEST, fresh_boot=False, **wired) as vm:
        ask_shell(vm, "".join(tries) + "wait")
        assert vm.host_address is None
    assert_untouched(services["secret"])


def test_a_gvproxy_without_walls_leaves_the_host_open_and_says_so(
    boot_and_lines, gvproxy_081, services, unsealed, ungated
):
    """Shows too that the tests above can see what they deny."""
    boot, lines = boot_and_lines
    # The service is asked, not the guest: gvproxy 0.8.1 may lose an answer when either side closes.
    let_in = threading.Event()
    with host_service(lambda _: let_in.set()) as port:
        wired = {"allow_network": True, "gvproxy": str(gvproxy_081)}
        with boot(SHELL_PORT, setup=GUEST, fresh_boot=False, **wired) as vm:
            ask_shell(vm, f"nc -w 5 {HOST_ALIAS_IP} {port}")
        assert let_in.wait(60)
    (line,) = [line for line in lines if "not all walls" in line]
    assert "no filter (the test switched it off)" in line and "on the host's 127.0.0.1" in line


@pytest.mark.parametrize(
    ("gone", "name"), [("unsealed", "filter"), ("ungated", "gate"), ("unwalled", "Landlock")]
)
def test_a_strict_network_refuses_where_one_wall_is_missing(boot, any_gvproxy, gone, name, request):
    request.getfixturevalue(gone)
    with (
        pytest.raises(MissingWallError, match=rf"no {name} \(the test switched it off\)"),
        boot(allow_network=True, gvproxy=str(any_gvproxy), strict_network=True),
    ):
        pass


def test_a_guest_without_forwards_reaches_a_service_too(boot):
    with (
        host_service(lambda c: c.sendall(b"it is me\n")) as port,
        boot(host_ports={8000: port}, setup=f"nc {HOST_IP} 8000") as vm,
    ):
        assert "it is me" in vm.console


@pytest.mark.slow_as("gvproxy")
def test_clones_of_one_template_reach_services_at_other_ports_and_after_a_reset(boot, wiring):
    saved = []
    for word in (b"first\n", b"second\n"):
        with (
            host_service(lambda c, word=word: c.sendall(word)) as port,
            boot(
                SHELL_PORT, **wiring, host_ports={8000: port}, setup=GUEST, fresh_boot=False
            ) as vm,
        ):
            assert vm.origin == "cloned"
            assert ask_shell(vm, f"nc {HOST_IP} 8000").encode() == word
            saved.append(re.search(r"mem-path=(\S+)/ram", vm.command_line)[1])
            if word == b"second\n":
                vm.reset()
                assert vm.origin == "booted"
                assert ask_shell(vm, f"nc {HOST_IP} 8000").encode() == word
    assert saved[0] == saved[1]


def assert_refused(vm, port):
    # Unlike nc, wget says why it could not connect.
    assert "Connection refused" in ask_shell(vm, f"wget -T 50 -O- http://{HOST_IP}:{port}/")


def assert_untouched(server):
    with pytest.raises(BlockingIOError):  # nobody is waiting
        server.accept()


def test_a_vm_that_waited_reaches_the_services_of_its_own_test(
    pytester, qemu_binary, shared_templates
):
    """Those of the third differ, so it gets no VM that waited."""
    pytester.makepyfile(
        """
        import pytest
        from vm_helpers import SHELL, SHELL_PORT, ask_shell, host_service

        here, there = host_service(lambda c: c.sendall(b"here")), host_service(
            lambda c: c.sendall(b"there"))
        ports = here.__enter__(), there.__enter__()

        def ask(vm):
            return ask_shell(vm, "nc 192.168.128.1 8000")

        def needs(port):
            return pytest.mark.vmports(SHELL_PORT, host_ports={8000: port}, setup=SHELL)

        @needs(ports[0])
        def test_one(vm_with_ports):
            assert (vm_with_ports.origin, ask(vm_with_ports)) == ("cloned", "here")

        @needs(ports[0])
        def test_two(vm_with_ports):
            assert (vm_with_ports.origin, ask(vm_with_ports)) == ("standby", "here")

        @needs(ports[1])
        def test_three(vm_with_ports):
            assert (vm_with_ports.origin, ask(vm_with_ports)) == ("cloned", "there")
            here.__exit__(None, None, None)
            there.__exit__(None, None, None)
        """
    )
    pytester.syspathinsert(Path(__file__).parents[1])
    result = pytester.runpytest_inprocess("-p", "no:randomly", "-p", "no:xdist")
    result.assert_outcomes(passed=3)


def test_a_run_names_the_open_host_once_and_ends_a_test_whose_guest_opens_ports(
    pytester, gvproxy_081, qemu_binary, shared_templates, unsealed, ungated
):
    pytester.makepyfile(
        f"""
        import pytest
        from vm_helpers import SHELL, SHELL_PORT, ask_shell, fixed_port

        pytestmark = pytest.mark.vmports(
            SHELL_PORT, allow_network=True, gvproxy={str(gvproxy_081)!r}, setup=SHELL)

        def test_opens(vm_with_ports):
            local = f"127.0.0.1:{{fixed_port()}}"
            body = f'{{{{"local":"{{local}}","remote":"192.168.127.2:22","protocol":"tcp"}}}}'
            url = "http://192.168.127.1/services/forwarder/expose"
            ask_shell(vm_with_ports, f"wget -O- --post-data '{{body}}' {{url}}")

        def test_opens_nothing(vm_with_ports):
            pass
        """
    )
    pytester.syspathinsert(Path(__file__).parents[1])
    result = pytester.runpytest_inprocess("-p", "no:randomly", "-p", "no:xdist", "-s")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*GuestForwardError: the guest had gvproxy open host ports*"])
    said = [line for line in result.errlines if "not all walls stand" in line]
    assert len(said) == 1
