"""What each setting takes as a keyword, for type checkers; nothing loads this while tests run.

Written by scripts/settings_types.py from the table of settings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, TypedDict

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from os import PathLike

    from pytest_vmports.guests.guest import Guest
    from pytest_vmports.models import PortMapping

Path: TypeAlias = "str | PathLike[str]"
Port: TypeAlias = "int | str | PortMapping"
YesNo: TypeAlias = "bool | Literal['yes', 'no', 'true', 'false', 'on', 'off', '1', '0']"


class SettingKeywords(TypedDict, total=False):
    """The settings that the marker ``vmports`` and ``vm_factory`` take as keywords."""

    expose: Port | Sequence[Port] | None
    """Guest ports of every test, e.g. '8080 5353/udp 3000:80'."""
    allow_network: bool | str | Collection[str]
    """Let the guest reach the network: yes, no, or only these names, addresses and networks,
    e.g. 'packages.example.org, *.example.net:443, 10.1.0.0/16' (default: no).
    """
    backend: Literal["auto", "usernet", "gvproxy", "passt"]
    """Who connects the guest: auto (gvproxy when allow_network, else usernet), usernet,
    gvproxy, passt (default: auto).
    """
    host_ports: Mapping[int, int] | str | Sequence[str] | None
    """Services on the host's 127.0.0.1 that the guest may reach, at 192.168.128.1: its
    port:the host's, e.g. '8000:45123'.
    """
    network: str | None
    """Name of a network that this VM shares with other VMs of the test process."""
    strict_network: YesNo
    """Let no guest reach the host by the host's own addresses, and refuse a VM that cannot be
    kept from gvproxy's API and the host's 127.0.0.1: yes or no (default: no).
    """
    guest: str | PathLike[str] | Guest | Callable[[], Guest]
    """What to boot: alpine, alpine-disk, an image's name (debian-13), path or address, a
    container image (docker://nginx:1.27, oci:app.tar), or module:attribute (a Guest, or
    returns one) (default: alpine).
    """
    kernel: Path | None
    """Path of a kernel to boot instead."""
    initrd: Path | None
    """Path of the initrd that goes with kernel."""
    append: str | Sequence[str]
    """Words for the command line of kernel."""
    files: Mapping[str, str] | Mapping[PathLike[str], str] | str | Sequence[str] | None
    """What to put into the guest: host path=guest path, and more."""
    setup: Path | None
    """Shell text or a script's path, run as root."""
    cloud_init: Literal["strict", "tolerant"]
    """A complaint of one of cloud-init's modules fails the VM (strict) or is warned of
    (tolerant) (default: strict).
    """
    agent: YesNo
    """Let cloud-init bring our agent into a disk image's guest, by which commands and files
    go: yes or no (default: yes).
    """
    memory: int | str
    """The guest's memory in MiB, or as 1G (default: 256)."""
    cpus: int | str
    """The guest's virtual processors (default: 1)."""
    machine: Path | None
    """The guest's board, as QEMU calls it, e.g. pc, q35 or microvm (default: the first that
    its architecture has).
    """
    cpu: str | None
    """The guest's processor, as QEMU's -cpu takes it: max, or 'qemu64,+avx' (default: the
    host's own, or what can be emulated).
    """
    disks: str | Sequence[Path] | None
    """Further disks, behind the root if there is one: sizes of empty ones and images' paths,
    e.g. '512M data.qcow2'.
    """
    tpm: YesNo
    """Give the guest a TPM 2.0, by swtpm: yes or no (default: no)."""
    nics: int | str | None
    """Network cards that the guest has at least; those beyond what its ports and networks
    need lead nowhere (1 to 8).
    """
    paused: YesNo
    """Begin before the guest's first instruction, for gdb (vm.gdb); nobody waits until it is
    ready: yes or no (default: no).
    """
    qemu_args: str | Sequence[str] | None
    """Further words for QEMU, as a shell splits them, or a list, e.g. '-device edu'; not
    those that settings or we need.
    """
    display: YesNo
    """Give the guest a graphics card, for screenshots (default: no)."""
    accel: Literal["auto", "kvm", "hvf", "tcg"]
    """Accelerator: auto, kvm, hvf or tcg (default: auto)."""
    boot_timeout: float | str
    """Seconds until the guest must be ready (default: 120)."""
    wait_for: int | str | Sequence[int] | Sequence[str] | None
    """What must answer: any, all, none, guest ports ('80 443') or an HTTP path
    ('8080/health') (default: any).
    """
    template: YesNo | Literal["always"]
    """Boot once and start each test's VM from its saved state: yes, no, or always: also where
    nothing can set a restored guest's clock, which is behind then (default: yes).
    """
    fresh_boot: YesNo
    """Boot this test's VM from cold: yes or no (default: no)."""
    allow_crash: YesNo
    """A crash of its kernel does not fail a test: yes or no (default: no)."""
    on_reboot: Literal["fail", "allow"]
    """A guest that reboots by itself ends its VM, and the test fails (fail), or it lives on
    (allow) (default: fail).
    """
    crash_dump: YesNo
    """Write the memory of a guest whose kernel crashed to the artifacts: yes or no (default:
    no).
    """
    copy_limit: int | str
    """Most MiB that vm.get copies out of a guest, or as 1G (default: 1G)."""
    prewarm: int | str
    """Most VMs that each test process keeps ready for its next tests while one runs: a
    number, or auto, by processors; never more than fit in its share of the free memory
    (default: auto).
    """
    port_wait: float | str
    """Seconds to wait for a fixed port of another test (default: 60)."""
    bind_host: str
    """Host address that forwards bind (default: 127.0.0.1)."""
    qemu: Path | None
    """QEMU's program or path."""
    gvproxy: Path | None
    """Gvproxy's program or path."""
    missing: Literal["error", "skip"]
    """What a test does when QEMU, gvproxy or the guest is missing: error or skip (default:
    error).
    """
    pcap: YesNo
    """Capture the guest's packets for artifacts: yes or no (default: no)."""
    console_limit: int | str
    """MiB on disk for what a guest writes to its console; of more its middle is dropped
    (default: 64).
    """
