"""What doctor says of /dev/kvm, by where it runs; and doctor on odd hosts."""

import os
import subprocess
import sys

import pytest

from pytest_vmports.cli import doctor
from pytest_vmports.cli import place as here
from pytest_vmports.system import proc, programs
from pytest_vmports.system.programs import Accelerator, Qemu

VARIABLES = {
    "a machine": {}, "GitHub": {"GITHUB_ACTIONS": "true", "CI": "true"},
    "GitLab": {"GITLAB_CI": "true", "CI": "true"}, "Kubernetes": {"KUBERNETES_SERVICE_HOST": "x"},
    "podman": {"container": "podman"},
    "GitHub's container": {"GITHUB_ACTIONS": "true", "container": "oci"},
    "GitLab's container": {"GITLAB_CI": "true", "container": "oci"},
}  # fmt: skip
UDEV = ["GitHub Actions", 'KERNEL=="kvm"', "udevadm trigger --name-match=kvm"]
# Per place and what is there of KVM: words that the answer has.
ANSWERS = {
    ("a machine", "no flag"): ["in the firmware"],
    ("a machine", "no device"): ["modprobe kvm_intel"],
    ("a machine", "no right"): ["usermod -aG"],
    ("podman", "no device"): ["in a container", "--device /dev/kvm", "--group-add"],
    ("podman", "no right"): ["--device /dev/kvm --group-add {gid}"],
    ("Kubernetes", "no device"): ["in a pod", "device plugin"],
    ("Kubernetes", "no right"): ["supplementalGroups: [{gid}]"],
    ("GitHub", "no flag"): ["GitHub Actions", "ubuntu-latest"],
    ("GitHub", "no device"): ["ubuntu-latest"],
    ("GitHub", "no right"): UDEV,
    ("GitHub's container", "no device"): ["GitHub Actions, in a container", "options: --device"],
    ("GitHub's container", "no right"): ["options: --device /dev/kvm --group-add {gid}"],
    ("GitLab", "no flag"): ["GitLab CI", "runner of your own"],
    ("GitLab", "no right"): ["usermod -aG", "gitlab-runner"],
    ("GitLab's container", "no device"): ["config.toml", 'devices = ["/dev/kvm"]'],
    ("GitLab's container", "no right"): ["config.toml", 'group_add = ["{gid}"]'],
}


@pytest.fixture
def host(monkeypatch, tmp_path):
    """Return a function that makes this machine look so."""
    for name in {name for given in VARIABLES.values() for name in given}:
        monkeypatch.delenv(name, raising=False)
    device, cpuinfo = tmp_path / "kvm", tmp_path / "cpuinfo"
    monkeypatch.setattr(here, "_DEVICE", device)
    monkeypatch.setattr(proc, "PROC", cpuinfo.parent)
    monkeypatch.setattr(here, "_CONTAINER_MARKS", ())
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(programs, "find_qemu", lambda _=None: Qemu("qemu", (8, 2, 1), "from PATH"))
    monkeypatch.setattr(programs, "choose_accel", lambda *_: Accelerator("tcg", "chosen: no kvm"))

    def look(place, lacks):
        for name, value in VARIABLES[place].items():
            monkeypatch.setenv(name, value)
        cpuinfo.write_text("flags : sse2" if lacks == "no flag" else "flags : vmx")
        if lacks != "no device":
            device.touch()
        monkeypatch.setattr(here.os, "access", lambda *_: lacks == "nothing")

    return look


@pytest.mark.parametrize(("place", "lacks"), ANSWERS)
def test_it_says_what_opens_kvm_there(host, place, lacks):
    host(place, lacks)
    found = doctor._accelerator()
    for words in ANSWERS[place, lacks]:
        assert words.format(gid=os.getgid()) in f"{found.text}\n{found.remedy}"


@pytest.mark.parametrize("place", VARIABLES)
@pytest.mark.parametrize("lacks", ["no flag", "no device", "no right"])
def test_there_is_an_answer_for_every_place_and_none_where_nothing_lacks(host, place, lacks):
    host(place, lacks)
    assert doctor._accelerator().remedy
    host(place, "nothing")
    assert doctor._accelerator().remedy == ""


def test_a_group_without_a_name_is_told_by_its_number(host, monkeypatch):
    def unknown(_):
        raise KeyError("no such group")

    host("a machine", "no right")
    monkeypatch.setattr(here.grp, "getgrgid", unknown)
    assert f"no group has the number {os.getgid()}" in doctor._accelerator().remedy


HOMELESS = """
import os
os.environ.pop("HOME", None)
os.getuid = os.geteuid = lambda: 12345678
from pytest_vmports.cli import main
raise SystemExit(main.main(["doctor"]))
"""


def test_without_a_home_it_goes_on_to_its_end(qemu_binary, tmp_path):
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    for name in ("VMPORTS_CACHE_DIR", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"):
        env.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", HOMELESS], env=env, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    assert done.returncode in {0, 1, 2}
    assert "leftovers" in done.stdout.splitlines()[-1] or "leftovers" in done.stdout


def test_a_misspelt_variable_is_found(monkeypatch):
    monkeypatch.setenv("VMPORTS_MEMROY", "1")
    found = doctor._settings()
    assert found.state == doctor.BROKEN
    assert "did you mean VMPORTS_MEMORY?" in found.text


@pytest.mark.parametrize("error", [OSError, RuntimeError, KeyError, ValueError])
def test_an_odd_host_ends_one_check_and_not_all(error):
    def _broken():
        raise error("odd")

    (found,) = doctor._careful(_broken)
    assert (found.name, found.state) == ("broken", doctor.LIMITED)
    assert "odd" in found.text
