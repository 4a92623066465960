"""Where we run, as far as that decides what opens /dev/kvm: a CI, a container, or neither."""

from __future__ import annotations

import grp
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from pytest_vmports.system.architecture import X86_64, host_architecture
from pytest_vmports.system.proc import said
from pytest_vmports.system.programs import virtualizes

_DEVICE = Path("/dev/kvm")
_CONTAINER_MARKS = (Path("/.dockerenv"), Path("/run/.containerenv"))
_UDEV = """\
a step before the tests:
- run: |
    echo 'KERNEL=="kvm", GROUP="kvm", MODE="0666", OPTIONS+="static_node=kvm"' \\
      | sudo tee /etc/udev/rules.d/99-kvm4all.rules
    sudo udevadm control --reload-rules
    sudo udevadm trigger --name-match=kvm"""


@dataclass(frozen=True)
class Place:
    """Where we run. ``ci`` is a name or empty."""

    ci: str
    container: bool
    kubernetes: bool = False

    def __str__(self) -> str:
        words = [self.ci] if self.ci else []
        if self.container:
            words.append("in a pod of Kubernetes" if self.kubernetes else "in a container")
        return ", ".join(words)


def place() -> Place:
    """Return where we run, by what CIs and containers set."""
    kubernetes = "KUBERNETES_SERVICE_HOST" in os.environ
    container = kubernetes or "container" in os.environ
    container = container or any(mark.exists() for mark in _CONTAINER_MARKS)
    if os.environ.get("GITHUB_ACTIONS"):
        return Place("GitHub Actions", container, kubernetes)
    if os.environ.get("GITLAB_CI"):
        return Place("GitLab CI", container, kubernetes)
    return Place("", container, kubernetes)


def towards_kvm(where: Place) -> str:
    """Return what would make KVM work here, or nothing where nothing can be said."""
    if not sys.platform.startswith("linux") or host_architecture() != X86_64.name:
        return ""
    processor = said("cpuinfo")
    if processor and not virtualizes(processor):
        return _without_nesting(where)
    if not _DEVICE.exists():
        return f"for KVM: {_without_device(where)}"
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        return f"for KVM: {_without_right(where)}"
    return ""


def _without_nesting(where: Place) -> str:
    words = "VMs run under emulation, several times slower; for KVM "
    if where.ci == "GitHub Actions":
        return f"{words}take one of GitHub's own Linux runners for x86-64, as ubuntu-latest"
    if where.ci == "GitLab CI":
        return f"{words}take a runner of your own, on a machine that has virtualization"
    return (
        f"{words}switch on virtualization in the firmware, or nested virtualization where this is "
        "itself a VM"
    )


def _without_device(where: Place) -> str:
    if where.kubernetes:
        pod = "give the pod the device, by a device plugin as KubeVirt's (devices.kubevirt.io/kvm)"
        return pod if where.ci != "GitLab CI" else f"{pod}, or take a runner with Docker's executor"
    if where.ci == "GitHub Actions":
        if where.container:
            return "in the job's container: options: --device /dev/kvm"
        return "take one of GitHub's own Linux runners for x86-64, as ubuntu-latest"
    if where.ci == "GitLab CI" and where.container:
        return 'in the runner\'s config.toml, below [runners.docker]: devices = ["/dev/kvm"]'
    if where.container:
        return 'docker run --device /dev/kvm --group-add "$(stat -c %g /dev/kvm)" …'
    return "modprobe kvm_intel or kvm_amd"


def _without_right(where: Place) -> str:
    number = _DEVICE.stat().st_gid
    if where.container:
        return _without_right_in_a_container(where, number)
    if where.ci == "GitHub Actions":
        return _UDEV
    try:
        group = grp.getgrgid(number).gr_name
    except KeyError:
        return f"no group has the number {number} of /dev/kvm: chgrp it to kvm"
    user = "gitlab-runner" if where.ci == "GitLab CI" else "USER"
    return f"usermod -aG {group} {user}, then log in again"


def _without_right_in_a_container(where: Place, number: int) -> str:
    if where.kubernetes:
        return f"in the pod's securityContext: supplementalGroups: [{number}]"
    if where.ci == "GitLab CI":
        return (
            "in the runner's config.toml, below [runners.docker]: "
            f'devices = ["/dev/kvm"], group_add = ["{number}"]'
        )
    given = f"--device /dev/kvm --group-add {number}"
    if where.ci == "GitHub Actions":
        return f"in the job's container: options: {given}"
    return f"docker run {given} …"
