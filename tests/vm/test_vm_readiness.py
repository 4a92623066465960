"""A VM is handed over when the guest itself answers, and never before.

What counts as an answer is tried without VMs in `test_readiness.py`.
"""

from __future__ import annotations

import socket
import urllib.request

import pytest
from vm_helpers import ask_tcp, count_boots_from, serve, unstarted

from pytest_vmports.errors import BootTimeoutError, MachineDiedError, SetupError
from pytest_vmports.settings import options
from pytest_vmports.vm.machine import Machine

LATE = "(sleep 2; nc -lk -p 8080 -e cat) &"
# Unavailable to the first two who ask, as a service that is warming up.
WARMING_UP = r"""
mkdir -p /srv
cat >/srv/answer <<'EOF'
#!/bin/sh
# To the empty line: what is left unread when the server closes would reset the connection.
while read -r line && [ "$line" != "$(printf '\r')" ]; do :; done
echo "asked" >>/srv/asked
[ "$(wc -l </srv/asked)" -le 2 ] && status="503 Busy" || status="200 OK"
echo "said $status" >/dev/console
printf 'HTTP/1.0 %s\r\nContent-Length: 3\r\n\r\nup\n' "$status"
EOF
chmod +x /srv/answer
nc -lk -p 8080 -e /srv/answer &
"""


@pytest.fixture(params=["usernet", "gvproxy"])
def wiring(request):
    """Return the settings of each wiring; with gvproxy the guest has network."""
    if request.param == "usernet":
        return {}
    return {"allow_network": True, "gvproxy": str(request.getfixturevalue("gvproxy_089"))}


@pytest.mark.slow_as("gvproxy")
def test_servers_that_start_long_after_the_setup_answer_at_hand_over(boot, wiring):
    with boot(8080, 9090, setup=serve(9090) + LATE, wait_for="all", **wiring) as vm:
        # Nothing is tried twice: the first connection to each is served.
        assert ask_tcp(vm, 8080, b"at once") == b"at once"
        assert ask_tcp(vm, 9090, b"as well") == b"as well"


def test_none_asks_no_port_but_waits_for_the_setup(boot):
    with boot(8080, setup="echo setup is through", wait_for="none") as vm:
        assert "setup is through" in vm.console
        assert refuses(vm, 8080)


@pytest.fixture
def count_from(monkeypatch):
    """Return a function that lets boot timeouts be counted from certain words of the console."""
    monkeypatch.setattr(Machine, "wait_ready", Machine.wait_ready)  # to be put back
    return count_boots_from


def test_a_guest_that_never_listens_is_not_handed_over(boot, count_from):
    count_from("vmports: setup ended")
    with (
        pytest.raises(BootTimeoutError) as caught,
        boot(8080, setup="echo nothing listens here", boot_timeout=2),
    ):
        pass
    text = str(caught.value)
    assert "not ready within 2 s: waited for any one forwarded TCP port" in text
    said = "port 8080: the guest refused: no program in the guest listens on any TCP port"
    assert said in text
    assert "nothing listens here" in caught.value.console
    assert "nothing listens here" in text


def test_a_setup_that_runs_its_server_in_the_foreground_is_told_of_the_ampersand(boot, count_from):
    count_from("its server comes")
    with (
        pytest.raises(BootTimeoutError) as caught,
        boot(8080, setup="echo its server comes; nc -lk -p 8080 -e cat", boot_timeout=2),
    ):
        pass
    text = str(caught.value)
    assert "its setup has not ended: port 8080 answers already, so the setup waits for" in text
    assert "needs & at the end of its line" in text


def test_a_connect_says_yes_before_the_guest_even_boots(vmports_pool, request, qemu_binary, wiring):
    """Show why a connect is not what we wait for."""
    settings = options.resolve(request.config, {"expose": [8080], **wiring}, "the test")
    exposed = vmports_pool.lease(settings.expose, settings)
    machine = unstarted(vmports_pool, settings, exposed)
    try:
        machine.start(exposed.pass_fds)
        socket.create_connection(exposed[8080].address, timeout=10).close()
        assert "vmports: " not in machine.console.text()
    finally:
        machine.finish()
        exposed.release()


def test_an_http_path_is_ready_when_it_is_good(boot):
    with boot(8080, setup=WARMING_UP, wait_for="8080/health") as vm:
        assert vm.console.count("said 503 Busy") == 2
        with urllib.request.urlopen(vm[8080].url, timeout=10) as page:
            assert page.read() == b"up\n"


def test_a_setup_that_fails_is_an_error_with_its_code_and_the_console(boot):
    with pytest.raises(SetupError) as caught, boot(8080, setup="echo oh no; exit 3"):
        pass
    assert caught.value.returncode == 3
    assert "oh no" in caught.value.console
    assert "the guest's setup ended with 3" in str(caught.value)


@pytest.mark.parametrize(
    ("setup", "said"),
    [
        pytest.param("poweroff -f", "(the guest powered off)", id="powers off"),
        pytest.param(
            "echo c >/proc/sysrq-trigger", "kernel panicked: sysrq triggered crash", id="panics"
        ),
    ],
)
@pytest.mark.slow_as("powers off")
def test_a_guest_that_ends_while_booting_fails_at_once(boot, setup, said):
    """At the timeout the error would be another: the end of QEMU is noticed as such."""
    with pytest.raises(MachineDiedError) as caught, boot(8080, setup=setup, boot_timeout=60):
        pass
    assert caught.value.program == "QEMU"
    assert said in str(caught.value)


def refuses(vm, port):
    """Whether a connection that was made is closed without a byte: nobody listens in the guest."""
    with socket.create_connection(vm[port].address, timeout=10) as connection:
        try:
            return connection.recv(1) == b""
        except ConnectionResetError:
            return True
