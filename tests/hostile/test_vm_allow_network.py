"""What a real guest reaches of a network and of its host by it, in namespaces that lead nowhere."""

from __future__ import annotations

import textwrap

import pytest
from namespaces import pytest_apart, what_it_takes

# Whom the guest may want to reach, in a network namespace of its own.
ELSEWHERE = """
    import socket, socketserver, subprocess, sys, threading
    from name_server import saying, serving

    print("here", flush=True)
    sys.stdin.readline()
    for number in (9, 10, 11, 53):
        subprocess.run(["ip", "address", "add", f"203.0.113.{number}/24", "dev", "in0"], check=True)
    for name in ("lo", "in0"):
        subprocess.run(["ip", "link", "set", name, "up"], check=True)

    class Says(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\nfrom elsewhere\\n")

    class Echoes(socketserver.BaseRequestHandler):
        def handle(self):
            self.request[1].sendto(self.request[0], self.client_address)

    WHERE = {"some.name.example.": "203.0.113.9", "evil.example.": "203.0.113.9",
             "host.name.example.": "203.0.113.1", "loop.name.example.": "127.0.0.1"}

    def answer(question):
        name = question.question[0].name.to_text()
        is_a = question.question[0].rdtype == 1 and name in WHERE
        return saying(*[f"{name} 60 IN A {WHERE[name]}"] if is_a else [])(question)

    servers = [socketserver.ThreadingTCPServer(("0.0.0.0", port), Says) for port in (8000, 8001)]
    servers.append(socketserver.ThreadingUDPServer(("203.0.113.9", 5000), Echoes))
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    with serving(answer, ("203.0.113.53", 53)):
        print("ready", flush=True)
        sys.stdin.readline()
"""

THERE = '''
    import contextlib, socket, subprocess, sys
    import pytest
    from vm_helpers import host_service

    @pytest.fixture(scope="module", autouse=True)
    def elsewhere():
        words = ["unshare", "--net", sys.executable, "elsewhere.py"]
        pipe = subprocess.PIPE
        with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) as there:
            assert there.stdout.readline() == "here\\n"
            for line in (
                f"link add out0 type veth peer name in0 netns {there.pid}",
                "address add 203.0.113.1/24 dev out0", "link set out0 up",
            ):
                subprocess.run(["ip", *line.split()], check=True)
            there.stdin.write("go\\n")
            there.stdin.flush()
            assert there.stdout.readline() == "ready\\n"
            yield
            there.stdin.close()

    def web(vm, host, port=8000):
        """Return what a web server says. Not by nc: 0.8.1 forgets the answer to a closed side."""
        return vm.run(f"wget -T 20 -q -O- http://{host}:{port}/ 2>/dev/null || echo no").stdout

    def told(vm, host, port=5000):
        """Return what comes back of a datagram."""
        return vm.run(f"echo hello | nc -u -w 2 {host} {port}", check=False).stdout

    def connects(entries):
        return [(one.address, one.port, one.protocol) for one in entries if one.kind == "connect"]

    def names(entries):
        return {one.name for one in entries if one.kind == "name"}

    @contextlib.contextmanager
    def services_that_hear_nothing():
        """Have two on all of the host's addresses, and see that nobody came."""
        with (
            socket.create_server(("0.0.0.0", 8000)) as own,
            socket.socket(type=socket.SOCK_DGRAM) as ear,
        ):
            ear.bind(("0.0.0.0", 5000))
            yield
            for listens, ask in ((own, own.accept), (ear, lambda: ear.recv(10))):
                listens.setblocking(False)
                with pytest.raises(BlockingIOError):
                    ask()

    HERE = "from elsewhere\\n"
'''

GVPROXY = """
    @pytest.mark.vmports(
        wait_for="none", allow_network=["*.name.example", "203.0.113.10:8000"], template=False
    )
    def test_a_guest_reaches_what_is_listed_and_the_rest_is_noted(vm_with_ports):
        vm = vm_with_ports
        assert vm.network_log == []
        assert web(vm, "203.0.113.9") == "no\\n"
        assert web(vm, "evil.example") == "no\\n"
        assert web(vm, "203.0.113.9") == "no\\n"
        assert web(vm, "some.name.example") == HERE
        assert web(vm, "203.0.113.9", 8001) == HERE
        assert told(vm, "203.0.113.9") == "hello\\n" and told(vm, "203.0.113.11") == ""
        assert web(vm, "203.0.113.10") == HERE and web(vm, "203.0.113.10", 8001) == "no\\n"
        # The name server that is asked without gvproxy is the same that it asks.
        said = vm.run("nslookup evil.example 203.0.113.53", check=False)
        assert "NXDOMAIN" in said.stdout + said.stderr
        assert vm.run("nslookup some.name.example 203.0.113.53").stdout.count("203.0.113.9") == 1
        with socket.create_server(("203.0.113.1", 8000)) as own, host_service(print) as loopback:
            assert web(vm, "host.name.example") == web(vm, "203.0.113.1") == "no\\n"
            web(vm, "loop.name.example", loopback)
            own.setblocking(False)
            with pytest.raises(BlockingIOError):
                own.accept()
        log = vm.network_log
        assert names(log.refused) == {"evil.example"}
        assert names(log) == {"evil.example", "some.name.example", "host.name.example",
                              "loop.name.example"}
        assert connects(log.refused) == [
            ("203.0.113.9", 8000, "tcp"), ("203.0.113.11", 5000, "udp"),
            ("203.0.113.10", 8001, "tcp"), ("203.0.113.1", 8000, "tcp"),
        ]
        assert connects(one for one in log if one.allowed) == [
            ("203.0.113.9", 8000, "tcp"), ("203.0.113.9", 8001, "tcp"),
            ("203.0.113.9", 5000, "udp"), ("203.0.113.10", 8000, "tcp"),
        ]
        assert log.dropped == 0

    @pytest.mark.vmports(wait_for="none", allow_network=True, strict_network=True, template=False)
    def test_a_guest_reaches_everything_but_the_host(vm_with_ports):
        vm = vm_with_ports
        assert web(vm, "203.0.113.9") == web(vm, "evil.example") == HERE
        assert told(vm, "203.0.113.9") == "hello\\n"
        assert "1 packets received" in vm.run("ping -c 1 -w 10 192.168.127.1").stdout
        with services_that_hear_nothing():
            assert web(vm, "203.0.113.1") == web(vm, "host.name.example") == "no\\n"
            assert told(vm, "203.0.113.1") == told(vm, "203.0.113.255") == ""
        assert {*connects(vm.network_log.refused)} == {
            ("203.0.113.1", 8000, "tcp"), ("203.0.113.1", 5000, "udp"),
            ("203.0.113.255", 5000, "udp"),
        }
        assert names(vm.network_log) == {"evil.example", "host.name.example"}
        # And fails, for its report.
        assert not vm.network_log.refused
"""


PASST = """
    @pytest.mark.vmports(wait_for="none", allow_network=True, strict_network=True, template=False)
    def test_a_guest_reaches_everything_but_the_host(vm_with_ports):
        vm = vm_with_ports
        assert web(vm, "203.0.113.9") == web(vm, "evil.example") == HERE
        assert told(vm, "203.0.113.9") == "hello\\n"
        with services_that_hear_nothing():
            assert web(vm, "203.0.113.1") == web(vm, "host.name.example") == "no\\n"
            assert told(vm, "203.0.113.1") == told(vm, "203.0.113.255") == ""
            # A port that is another's, or could be a test's, is not taken for the guest's own.
            with socket.socket(type=socket.SOCK_DGRAM) as free:
                said = vm.run("echo hello | nc -u -p 20123 -w 2 203.0.113.9 5000", check=False)
                assert said.stdout == ""
                free.bind(("0.0.0.0", 20123))
        assert {*connects(vm.network_log.refused)} == {
            ("203.0.113.1", 8000, "tcp"), ("203.0.113.1", 5000, "udp"),
            ("203.0.113.255", 5000, "udp"),
        }
        assert ("203.0.113.9", 8000, "tcp") in connects(vm.network_log)
"""


def test_a_guest_reaches_what_it_was_given_by_passt(
    pytester, passt, gvproxy_089, missing, monkeypatch
):
    monkeypatch.setenv("VMPORTS_BACKEND", "passt")
    done = reached(pytester, PASST, gvproxy_089, missing)
    assert "1 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
def test_a_guest_reaches_what_it_was_given(pytester, any_gvproxy, missing):
    done = reached(pytester, GVPROXY, any_gvproxy, missing)
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert ">       assert not vm.network_log.refused" in done.stdout, done.stdout
    assert "network: refused connect 203.0.113.255:5000 (udp): a broadcast" in done.stdout


def reached(pytester, suite, gvproxy, missing):
    """Return what a suite came to in a network namespace, joined to another by a cable."""
    what_it_takes(missing)
    pytester.makepyfile(textwrap.dedent(THERE + suite), elsewhere=textwrap.dedent(ELSEWHERE))
    (pytester.path / "resolv.conf").write_text("nameserver 203.0.113.53\n")
    mount = "mount --bind resolv.conf /etc/resolv.conf"
    return pytest_apart(mount, pytester.path, gvproxy)
