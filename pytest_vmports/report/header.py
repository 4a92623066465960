"""What pytest's header says of the programs that VMs need."""

from __future__ import annotations

from pytest_vmports.errors import HostError
from pytest_vmports.system.programs import choose_accel, find_gvproxy, find_qemu


def header_lines(qemu: str | None, accel: str, gvproxy: str | None) -> list[str]:
    """Return what pytest's header says of QEMU, accelerator and gvproxy."""
    lines = []
    try:
        found = find_qemu(qemu)
        lines.append(f"vmports: {found}")
        lines.append(f"vmports: accelerator {choose_accel(accel, found.path)}")
    except HostError as error:
        lines.append("vmports: " + str(error).splitlines()[0])
    try:
        lines.append(f"vmports: {find_gvproxy(gvproxy)}")
    except HostError:
        lines.append("vmports: no gvproxy, so no guest with network")
    return lines
