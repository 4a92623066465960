"""Whether a guest that is to be saved has kept its address on a shared network.

Each clone gets another. A server that listens on that address alone, a program that was told it, a
file where it was written down would then be wrong, and nobody would see why. So it is looked for
where setups put it, and a guest that has it there is not cloned. What a program has asked the
kernel for and remembers is not seen.
"""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING

from pytest_vmports.constants import LAN_MAC_PREFIX
from pytest_vmports.network.lan import template_seat
from pytest_vmports.system.mishaps import printable
from pytest_vmports.system.said import said_by

if TYPE_CHECKING:
    from pytest_vmports.vm.inside.shell import Shell

_SECONDS, _SEARCH_SECONDS = 60.0, 30
_MOST_BYTES, _MOST_FOUND = 4096, 4
_LONGEST_LINE = 200
_WHERE = "/etc /root /home /srv /opt /run /tmp /usr/local /var/lib /var/spool /var/www"
# What packages and cloud-init note for themselves: much of it, and nothing that acts.
_NOT = "/var/lib/dpkg /var/lib/apt /var/lib/rpm /var/lib/cloud /run/cloud-init /run/log"
_LARGEST_BLOCKS = 256  # of 512 bytes: configuration is smaller
_UNSEEN = "it could not be looked through for what it keeps of its address"
_REASONS = {
    "end": None, "search": _UNSEEN,
    "card": "its setup has changed the address of its second card, or moved it to another",
}  # fmt: skip
_LINE = re.compile(r"socket ([0-9A-F]{4})|program (\S.{0,60})|file (.{1,150})|(card|search|end)")


def _script() -> str:
    seat = template_seat(())
    # In brackets, so that what searches does not find itself.
    address = seat.address.replace(".", "[.]") + "($|[^0-9.])"
    mac = LAN_MAC_PREFIX.removesuffix(":") + "[:]"
    # Words of 32 bits as /proc/net/tcp has them, in the processor's order (see `listening`).
    bound = f"(: |FFFF0000){socket.inet_aton(seat.address)[::-1].hex().upper()}:[0-9A-F]+ "
    spared = " -o ".join(f"-path {folder}" for folder in _NOT.split())
    return f"""
if grep -q vmports.lan_ip= /proc/cmdline; then
  good=
  for card in /sys/class/net/*; do
    [ "$(cat "$card/address")" = {seat.mac} ] || continue
    ip -o -4 addr show dev "${{card##*/}}" | grep -qE ' {address}' && good=1
  done
  [ "$good" ] || echo card
fi
{{ cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | grep -E '{bound}.* 0A '
  cat /proc/net/udp /proc/net/udp6 2>/dev/null | grep -E '{bound}'
}} | head -n {_MOST_FOUND} | cut -c 1-80 | while read -r _ here _; do
  echo "socket ${{here##*:}}"
done
cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\000' '\\n' |
  grep -E '{address}' | head -n {_MOST_FOUND} | cut -c 1-60 | while read -r one; do
  echo "program $one"
done
folders=
for one in {_WHERE}; do
  [ -d $one ] && [ ! -L $one ] && folders="$folders $one"
done
found=$(timeout {_SEARCH_SECONDS} sh -c "
  find $folders -xdev '(' {spared} ')' -prune -o -type f -size -{_LARGEST_BLOCKS} -print0 |
    xargs -0 grep -lE -e '{address}' -e '{mac}' /dev/null | head -n {_MOST_FOUND} | cut -c 1-150
  :" 2>/dev/null) || echo search
[ -z "$found" ] || echo "$found" | while read -r one; do echo "file $one"; done
echo end
"""


def why_it_stays(shell: Shell) -> str | None:
    """Return why a guest cannot be given another address; None where it can.

    Args:
        shell: of a guest at the place that templates are made at; its setup has ended.

    Raises:
        GuestSaidError: it does not say.
        MachineError: it cannot be asked.
    """
    status, said, _ = shell.execute(_script(), timeout=_SECONDS, input=b"", most=_MOST_BYTES)
    if status is None:
        return _UNSEEN
    return found_in(said)


def found_in(said: bytes) -> str | None:
    """Return what a guest's answer to `_script` means, as `why_it_stays`.

    Raises:
        GuestSaidError: it is malformed.
    """
    with said_by("the guest, asked what it keeps of its address", said):
        if len(said) > _MOST_BYTES:
            raise ValueError("the answer is too long")
        lines = said.decode("utf-8", "replace").split("\n")
        rows = [_LINE.fullmatch(line[:_LONGEST_LINE]) for line in lines[:-1]]
        if lines[-1] or not rows or None in rows:
            raise ValueError("a line that was not asked for, or none")
        said_all = [row.groups() for row in rows if row is not None]
        if [row[-1] for row in said_all].index("end") != len(said_all) - 1:
            raise ValueError("the answer goes on after its end")
        port, program, file, alone = said_all[0]
        if port is not None:
            return f"it listens on its own address there alone (port {int(port, 16)})"
        if program is not None:
            return f"a program in it was given its address there ({printable(program)})"
        if file is not None:
            return f"its address there stands in its file {printable(file)}"
        return _REASONS[alone]
