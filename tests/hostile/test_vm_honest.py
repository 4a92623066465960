"""Real guests on hosts that are odd, and honest: what they were given works behind all walls."""

from __future__ import annotations

import shutil
import textwrap

import pytest
from namespaces import pytest_apart, what_it_takes

SUITE = """
    import os, subprocess
    import pytest
    from name_server import saying, serving

    def answer(question):
        name, is_a = question.question[0].name.to_text(), question.question[0].rdtype == 1
        return saying(*[f"{name} 60 IN A 203.0.113.9"] if is_a else [])(question)

    @pytest.fixture(scope="module", autouse=True)
    def stub():
        with serving(answer, ("127.0.0.53", 53)):
            yield

    @pytest.mark.vmports(wait_for="none", allow_network=True)
    def test_names(vm_with_ports):
        ask = "nslookup {}.example"
        assert "203.0.113.9" in vm_with_ports.run(ask.format("one")).stdout
        # As DHCP and VPNs do.
        with open("/etc/another", "w") as file:
            file.write("nameserver 127.0.0.53\\n")
        os.replace("/etc/another", "/etc/resolv.conf")
        # Go looks at the file's time every five seconds.
        vm_with_ports.run("sleep 6")
        vm_with_ports.run(ask.format("two"), check=False)
        assert "203.0.113.9" in vm_with_ports.run(ask.format("three")).stdout
        assert not vm_with_ports.network_log.refused
"""


@pytest.mark.slow
@pytest.mark.parametrize("any_gvproxy", ["0.8.1", "0.8.9"], indirect=True)
def test_a_name_server_on_the_hosts_loopback_serves_also_when_its_file_is_another(
    pytester, any_gvproxy, missing
):
    """In a network namespace, with a folder /etc of its own."""
    what_it_takes(missing)
    pytester.makepyfile(textwrap.dedent(SUITE))
    shutil.copytree("/etc", pytester.path / "etc", symlinks=True)
    (pytester.path / "etc/resolv.conf").unlink(missing_ok=True)
    (pytester.path / "etc/resolv.conf").symlink_to(pytester.path / "stub-resolv.conf")
    (pytester.path / "stub-resolv.conf").write_text("nameserver 127.0.0.53\noptions edns0\n")
    done = pytest_apart("mount --bind etc /etc", pytester.path, any_gvproxy)
    assert "1 passed" in done.stdout, done.stdout + done.stderr
