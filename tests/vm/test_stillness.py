"""What QEMU shows of a silent guest's processors, and what may be concluded from that."""

from __future__ import annotations

import pytest

from pytest_vmports import Guest
from pytest_vmports.errors import GuestStuckError, MonitorError
from pytest_vmports.guests.image import Disk
from pytest_vmports.system import clock
from pytest_vmports.system.architecture import AARCH64, X86_64
from pytest_vmports.vm.console import Console
from pytest_vmports.vm.inside.kind import kind_of
from pytest_vmports.vm.inside.waiting import Waiting
from pytest_vmports.vm.last_words import TABLE
from pytest_vmports.vm.stillness import HALTED, NO_SYSTEM, Processor, Stillness, processors

# Of QEMU 7.2, with those registers left out that are not looked at.
PROCESSOR = """
CPU#{number}
EAX=00000000 EBX=00000000 ECX=0000b79d EDX=00000000
EIP={ip} EFL={flags} [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT={halted}
CS =f000 000f0000 0000ffff 00009b00
CR0={cr0} CR2=00000000 CR3=00000000 CR4=00000000
DR0=0000000000000000 DR1=0000000000000000 DR2=0000000000000000 DR3=0000000000000000
EFER=0000000000000000
"""
WIDE = """
CPU#{number}
RAX=0000000000000000 RBX=0000000000000000 RCX=ffffffffb2e4430f RDX=0000000000000000
RIP=ffffffff{ip} RFL={flags} [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT={halted}
CR0={cr0} CR2=0000000000000000 CR3=0000000006c2a000 CR4=000006f0
"""
ARM64 = """
CPU#0
 PC=ffffffc00850b4d4 X00=0000000000000000 X01=0000000000000000
PSTATE=600000c5 -ZC- EL1h    FPU disabled
"""
# A processor of each kind, as interrupts, halt and paging.
WAITS_FOR_SIPI = {"ip": "000fd09a", "flags": "00000002", "halted": 1, "cr0": "00000011"}
BIOS_IDLES = {"ip": "0000b7b9", "flags": "00000246", "halted": 1, "cr0": "00000010"}
HALTS = {"ip": "00007c02", "flags": "00000002", "halted": 1, "cr0": "00000010"}
LOOPS = {"ip": "00007c00", "flags": "00000202", "halted": 0, "cr0": "00000010"}
LINUX_IDLES = {"ip": "b2e4430f", "flags": "00000246", "halted": 1, "cr0": "80050033"}
LINUX_HALTS = {"ip": "b2e4430f", "flags": "00000046", "halted": 1, "cr0": "80050033"}


def shown(*told):
    kinds = [WIDE if one["cr0"].startswith("8") else PROCESSOR for one in told]
    return "".join(
        kind.format(number=number, **one)
        for number, (kind, one) in enumerate(zip(kinds, told, strict=True))
    )


class Monitor:
    """QEMU's answers, which a test sets; each read of a disk is one operation more."""

    def __init__(self, *told):
        self.text = shown(*told)
        self.reads = 0
        self.asked = 0

    def registers(self):
        self.asked += 1
        if self.text is None:
            raise MonitorError(command="human-monitor-command", reply="it does not answer")
        return self.text

    def disk_operations(self):
        return [(self.reads, 0)]


@pytest.fixture
def moment(monkeypatch):
    now = [clock.now()]
    monkeypatch.setattr(clock, "now", lambda: now[0])
    return now


@pytest.fixture
def concludes(moment):
    """Return what is concluded within so many seconds, with what happens in each of them."""

    def found(stillness, seconds, happens=lambda: None):
        for _ in range(seconds):
            moment[0] += 1
            happens()
            if (verdict := stillness.look()) is not None:
                return verdict
        return None

    return found


def test_processors_are_read_in_either_width():
    assert processors(shown(BIOS_IDLES, LINUX_HALTS)) == [
        Processor(halted=True, interrupts=True, paging=False),
        Processor(halted=True, interrupts=False, paging=True),
    ]


@pytest.mark.parametrize("text", ["", ARM64, "unknown command: 'info registers'", "CR0=80000011"])
def test_of_what_is_no_pc_nothing_is_known(concludes, text):
    assert processors(text) == []
    monitor = Monitor()
    monitor.text = text
    assert concludes(Stillness(monitor, by_bios=True), 1000) is None


DEAD = {"boot sector": (HALTS, WAITS_FOR_SIPI), "one": (LINUX_HALTS,), "Linux": (LINUX_HALTS,) * 4}
IN_LOADER = {
    "waits for a key": (BIOS_IDLES, WAITS_FOR_SIPI),
    "loops": (LOOPS, WAITS_FOR_SIPI),
    "one processor": (LOOPS,),
}
MAY_COME = {
    "Linux idles": (LINUX_IDLES, LINUX_IDLES),
    "Linux idles beside a processor that is off": (LINUX_IDLES, LINUX_HALTS),
    "Linux has not begun its others": (LINUX_IDLES, WAITS_FOR_SIPI),
}


@pytest.mark.parametrize("by_bios", [False, True])
@pytest.mark.parametrize("told", DEAD.values(), ids=DEAD)
def test_processors_that_halted_without_interrupts_are_dead(concludes, told, by_bios):
    assert concludes(Stillness(Monitor(*told), by_bios=by_bios), 12) is HALTED


@pytest.mark.parametrize("told", IN_LOADER.values(), ids=IN_LOADER)
def test_who_stays_in_its_boot_loader_for_a_minute_will_not_come_up(concludes, told):
    stillness = Stillness(Monitor(*told), by_bios=True)
    assert concludes(stillness, 59) is None
    assert concludes(stillness, 10) is NO_SYSTEM


@pytest.mark.parametrize("told", IN_LOADER.values(), ids=IN_LOADER)
def test_uefi_may_work_in_silence_as_long_as_it_likes(concludes, told):
    assert concludes(Stillness(Monitor(*told), by_bios=False), 1000) is None


@pytest.mark.parametrize("told", MAY_COME.values(), ids=MAY_COME)
def test_of_a_system_that_runs_nothing_is_concluded(concludes, told):
    assert concludes(Stillness(Monitor(*told), by_bios=True), 1000) is None


def test_a_boot_loader_that_reads_the_disk_is_at_work(concludes):
    monitor = Monitor(LOOPS)

    def read():
        monitor.reads += 1

    assert concludes(Stillness(monitor, by_bios=True), 1000, read) is None


def test_a_guest_that_shows_life_is_looked_at_anew(concludes):
    stillness = Stillness(Monitor(LOOPS), by_bios=True)
    for _ in range(20):
        assert concludes(stillness, 50) is None
        stillness.begin()


def test_a_processor_that_goes_on_between_two_looks_is_alive(concludes):
    monitor = Monitor(LINUX_HALTS)
    turns = [shown(LINUX_HALTS), shown(LINUX_IDLES)]

    def turn():
        monitor.text = turns[monitor.asked % 2]

    assert concludes(Stillness(monitor, by_bios=True), 1000, turn) is None


def test_a_monitor_that_does_not_answer_concludes_nothing(concludes):
    monitor = Monitor(HALTS)
    answers = monitor.text

    def hang():
        monitor.text = None if monitor.asked % 2 else answers

    assert concludes(Stillness(monitor, by_bios=True), 1000, hang) is None
    assert monitor.asked > 10


def test_qemu_is_asked_rarely(moment, concludes):
    monitor = Monitor(LINUX_IDLES)
    stillness = Stillness(monitor, by_bios=True)
    assert concludes(stillness, 100) is None
    for _ in range(100):
        stillness.look()
    assert monitor.asked <= 100 / 5


def test_time_that_nobody_looked_counts_for_nothing(moment):
    stillness = Stillness(Monitor(LOOPS), by_bios=True)
    for _ in range(5):
        moment[0] += 10_000
        assert stillness.look() is None


@pytest.mark.parametrize(
    ("console", "ends"),
    [
        ("", "is empty"),
        ("reboot: System halted\n", "ends with 'reboot: System halted'"),
    ],
)
@pytest.mark.parametrize("table", [(), TABLE])
def test_a_wait_ends_with_what_qemu_shows(tmp_path, moment, console, ends, table):
    path = tmp_path / "console.log"
    path.write_text(console)
    stillness = Stillness(Monitor(HALTS), by_bios=True)
    waiting = Waiting(
        Console(path), lambda: None, moment[0] + 1000, 1000.0, ends=table, stillness=stillness
    )
    waiting.check()
    moment[0] += 6
    waiting.check()
    moment[0] += 6
    with pytest.raises(GuestStuckError) as caught:
        waiting.check()
    assert str(caught.value).startswith(f"the guest will not come up: {HALTED.means}\n")
    assert f"\nits console {ends}, and nothing has come for 12 s; " in str(caught.value)
    assert HALTED.remedy in str(caught.value)


def test_a_guest_that_still_writes_is_not_asked_about(tmp_path, moment):
    path, monitor = tmp_path / "console.log", Monitor(HALTS)
    waiting = Waiting(
        Console(path), lambda: None, moment[0] + 1000, 1000.0,
        stillness=Stillness(monitor, by_bios=True),
    )  # fmt: skip
    for number in range(100):
        path.write_text("." * number)
        moment[0] += 4
        waiting.check()
    assert monitor.asked == 0


def test_which_guests_a_bios_boots(tmp_path):
    disk, kernel = tmp_path / "disk", tmp_path / "vmlinuz"
    assert kind_of(Guest("g", prepared=False, root_disk=Disk(disk)), X86_64).by_bios
    assert kind_of(Guest("g", kernel), X86_64).by_bios
    assert kind_of(
        Guest("g", kernel, prepared=False, root_disk=Disk(disk, firmware="uefi")), X86_64
    ).by_bios
    assert not kind_of(
        Guest("g", prepared=False, root_disk=Disk(disk, firmware="uefi")), X86_64
    ).by_bios
    assert not kind_of(Guest("g", kernel), AARCH64).by_bios
    assert not kind_of(Guest("g", prepared=False, root_disk=Disk(disk)), AARCH64).by_bios
