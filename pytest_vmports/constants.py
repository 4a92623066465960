"""Numbers and addresses that several rooms share."""

from __future__ import annotations

from typing import Final

PORT_FORWARD_BIND_HOST: Final = "127.0.0.1"
"""Host address that forwards bind unless told otherwise: never visible outside the machine."""

MAX_EXPOSED_PORTS: Final = 10
"""Most ports one test may ask for."""

PORT_FORWARD_MIN_HOST_PORT: Final = 1024
"""Lowest host port a forward may use; those below need privileges."""

MAX_PORT: Final = 65535

PORT_SPELLINGS: Final = '8080, "8080/udp", "3000:8080" (host:guest), PortMapping(…)'
"""How a wanted port may be written, as errors and ``pytest --markers`` tell it."""

FIXTURE_NEARNESS: Final = 3
"""Where a fixture stands among a setting's homes: behind marker (0), command line (1) and
environment (2), before the ini file (4) and the default (5)."""

# One set of guest addresses for both wirings, so that one guest configuration serves both.
# They are gvproxy's defaults; QEMU's user network is told to use the same.
GUEST_SUBNET: Final = "192.168.127.0/24"
GUEST_IP: Final = "192.168.127.2"
GATEWAY_IP: Final = "192.168.127.1"
USERNET_DNS_IP: Final = "192.168.127.3"
UDP_RELAY_IP: Final = "192.168.127.253"
HOST_ALIAS_IP: Final = "192.168.127.254"

GVPROXY_CONFIG: Final = "gvproxy.yaml"
"""Name of its configuration in a VM's private folder."""

# gvproxy's DHCP server leases GUEST_IP to this address only.
GUEST_MAC: Final = "5a:94:ef:e4:0c:ee"
# Fixed, because a restored guest remembers them.
GATEWAY_MAC: Final = "5a:94:ef:e4:0c:dd"
UDP_RELAY_MAC: Final = "5a:94:ef:e4:0c:fd"

# The guest's second card leads to a network between VMs and this process. It is apart from the
# first, because whoever stands behind that card answers, or sends back, what is not for it.
LAN_SUBNET: Final = "192.168.128.0/24"
LAN_PREFIX: Final = "192.168.128."
LAN_MAC_PREFIX: Final = "5a:94:ef:e4:0d:"
HOST_IP: Final = "192.168.128.1"
"""Where a guest reaches the services of the host that its test lets it reach (``host_ports``)."""

# The address that libslirp derives from HOST_IP.
HOST_MAC: Final = "52:55:c0:a8:80:01"
# A user network has to have one; nothing asks this.
LAN_DNS_IP: Final = "192.168.128.254"

BY_MARKER: Final = "declare it by the test's marker: @pytest.mark.vmports({port!r})"
"""What to do about a port that a test looks up and has not declared."""
