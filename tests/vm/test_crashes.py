"""The table of what a kernel says when it fails: real texts, and lookalikes that are none."""

from __future__ import annotations

import itertools

import pytest
from folded import folded

from pytest_vmports.vm.console import Console
from pytest_vmports.vm.crashes import KINDS, Watch, Weight, crashes_in, passage

# As kernels write them, by row: 4.19 to 6.18, x86 and arm64.
SAID = {
    "panic": [
        "Kernel panic - not syncing: sysrq triggered crash",
        "Kernel panic - not syncing: Fatal exception in interrupt",
        "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000009",
        "Kernel panic - not syncing: kernel: panic_on_warn set ...",
        "Kernel panic - not syncing: System is deadlocked on memory",
    ],
    "oops": [
        "BUG: unable to handle kernel NULL pointer dereference at 0000000000000008",
        "BUG: unable to handle kernel paging request at ffffffffc0a3e000",
        "BUG: unable to handle page fault for address: ffffc90000a8d000",
        "BUG: kernel NULL pointer dereference, address: 0000000000000000",
        "Oops: 0002 [#1] SMP PTI",
        "Oops: 0000 [#1] PREEMPT SMP NOPTI",
        "Oops: Oops: 0002 [#1] SMP NOPTI",
        ("Oops: general protection fault, probably for non-canonical address "
        "0xdead000000000122: 0000 [#1] SMP NOPTI"),
        "general protection fault: 0000 [#1] SMP",
        ("general protection fault, probably for non-canonical address "
        "0x6b6b6b6b6b6b6b6b: 0000 [#1] PREEMPT SMP PTI"),
        "invalid opcode: 0000 [#1] SMP PTI",
        "divide error: 0000 [#1] PREEMPT SMP NOPTI",
        "traps: PANIC: double fault, error_code: 0x0",
        "Unable to handle kernel NULL pointer dereference at virtual address 0000000000000000",
        "Unable to handle kernel paging request at virtual address ffff800011e3c000",
        ("Unable to handle kernel access to user memory outside uaccess routines "
        "at virtual address 0000000000000010"),
        "Internal error: Oops: 96000004 [#1] SMP",
        "Internal error: Oops: 0000000096000044 [#1] PREEMPT SMP",
        "Internal error: Oops - BUG: 00000000f2000800 [#1] SMP",
        "Internal error: synchronous external abort: 0000000096000010 [#1] SMP",
        "SError Interrupt on CPU0, code 0x00000000be000011 -- SError",
    ],
    "assertion": [
        "kernel BUG at fs/ext4/inode.c:2721!",
        "kernel BUG at /build/linux-6.1.55/mm/slub.c:435!",
        "XFS: Assertion failed: fs_is_ok, file: fs/xfs/libxfs/xfs_btree.c, line: 1968",
    ],
    "bug": [
        "BUG: Dentry 00000000f1a4a8c4{i=1,n=x} still in use (1) [unmount of ext4 vda]",
        "BUG: Bad page state in process kworker/0:1  pfn:3a7c1",
        "BUG: Bad rss-counter state mm:00000000a1d1e1f1 type:MM_ANONPAGES val:1",
        "BUG: scheduling while atomic: swapper/0/0/0x00000002",
        "BUG: sleeping function called from invalid context at kernel/locking/mutex.c:580",
        "BUG: KASAN: slab-use-after-free in kmalloc_uaf+0xae/0xf0",
        "BUG: KFENCE: use-after-free read in test_use_after_free_read+0xb3/0x143",
        "BUG: KCSAN: data-race in test_kernel_read / test_kernel_write",
        "BUG: spinlock bad magic on CPU#0, insmod/1234",
        "BUG: using smp_processor_id() in preemptible [00000000] code: modprobe/183",
    ],
    "hung task": [
        "INFO: task dd:1234 blocked for more than 120 seconds.",
        "INFO: task jbd2/vda1-8:187 blocked for more than 241 seconds.",
        "INFO: task kworker/u8:2:61 blocked in I/O wait for more than 122 seconds.",
    ],
    "out of memory": [
        "Out of memory: Kill process 1120 (python3) score 912 or sacrifice child",
        ("Out of memory: Killed process 88 (tail) total-vm:230964kB, anon-rss:197180kB, "
        "file-rss:4kB, shmem-rss:0kB, UID:0 pgtables:440kB oom_score_adj:0"),
        "Out of memory (oom_kill_allocating_task): Killed process 9 (my (odd) name) total-vm:1kB",
    ],
    "stall": [
        "watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [kworker/0:1:12]",
        "NMI watchdog: BUG: soft lockup - CPU#1 stuck for 23s! [swapper/1:0]",
        "watchdog: CPU0: Watchdog detected hard LOCKUP on cpu 0",
        "NMI watchdog: Watchdog detected hard LOCKUP on cpu 2",
        "BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0 stuck for 33s!",
        "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
        "rcu: INFO: rcu_sched self-detected stall on CPU",
        "INFO: rcu_sched self-detected stall on CPU { 0}",
        "rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 0-... }",
    ],
    "out of a group's memory": [
        "Memory cgroup out of memory: Killed process 512 (stress) total-vm:1052656kB",
        "Memory cgroup out of memory: Kill process 512 (stress) score 1001 or sacrifice child",
    ],
    "warning": [
        "WARNING: CPU: 0 PID: 1 at kernel/locking/lockdep.c:895 register_lock_class+0x3a/0x4a0",
        "WARNING: kernel/time/timer.c:1749 at __run_timers+0x1d/0x2c0, CPU#0: swapper/0/0",
        "WARNING: possible circular locking dependency detected",
        "UBSAN: array-index-out-of-bounds in drivers/net/foo.c:12:3",
    ],
}  # fmt: skip
ROWS = [(name, text) for name, texts in SAID.items() for text in texts]
STAMPS = [
    "[    3.024675] ",
    "[12345.678901] ",
    "[    3.024675][    T1] ",
    "login: [    3.0][  C0] ",
]
# Those that programs may write as well count behind a kernel's time alone.
ONLY_STAMPED = [
    SAID["bug"][0], *SAID["warning"][2:], *(one for one in SAID["stall"] if "workqueue" in one)
]  # fmt: skip


def kinds(text):
    return [found.kind.name for found in crashes_in(text)]


def test_every_row_of_the_table_has_real_texts():
    assert {kind.name for kind in KINDS} == set(SAID)


@folded("stamp, row", itertools.product(STAMPS, ROWS))
def test_a_kernel_that_writes_the_time_is_understood(stamp, row):
    name, text = row
    (found,) = crashes_in(f"booting\r\n{stamp}{text}\r\nCPU: 0 PID: 1\r\n")
    assert found.kind.name == name
    assert text.endswith(found.said)


@folded("name, text", ROWS)
def test_and_one_that_writes_none_where_no_program_writes_so(name, text):
    assert kinds(f"booting\n{text}\n") == ([] if text in ONLY_STAMPED else [name])


@pytest.mark.parametrize("before", ["log: ", "kernel: ", "[warning] ", "[1.2.3] ", "# echo "])
@folded("name, text", ROWS)
def test_a_program_that_quotes_a_kernel_says_nothing(before, name, text):
    assert kinds(f"{before}{text}\n[    4.000000] app: {text}\n") == []


@folded(
    "line",
    [
        "BUG: the answer is 41",
        "WARNING: running pip as root",
        "Oops: could not connect",
        "Oops: 12 tests failed",
        "kernel BUG at large",
        "INFO: task 12 finished",
        "INFO: task build:12 blocked",
        "Out of memory",
        "Out of memory: cannot allocate 12 bytes",
        "Killed process 12 (tail)",
        "general protection fault",
        "[    4.1] traps: app[123] general protection fault ip:40 sp:7ff error:0 in app[400000]",
        "[    4.1] app[123]: segfault at 0 ip 0000000000401136 sp 00007ffd error 4 in app",
        "[    4.1] oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,task=tail,pid=88",
        "[    4.1] oom_reaper: reaped process 88 (tail), now anon-rss:0kB",
        "[    4.1] Spectre V2 : WARNING: Unprivileged eBPF is enabled with eIBRS on",
        "[    4.1] rcu: INFO: this is no stall",
        "[    4.1] systemd[1]: BUG: something of systemd's",
        "[    4.1] watchdog: BUG",
        "[    4.1] workqueue: psi_avgs_work hogged CPU for >10000us 4 times",
    ],
)
def test_what_no_failing_kernel_writes_is_nothing(line):
    assert kinds(f"{line}\n") == []


@pytest.mark.parametrize("name", ["warning", "out of a group's memory"])
def test_what_a_kernel_goes_on_after_fails_no_test(name):
    assert {kind.weight for kind in KINDS if kind.name == name} == {Weight.SAID}


@folded("text", SAID["stall"])
def test_a_stall_fails_a_test_where_the_kernel_calls_it_a_bug(text):
    (found,) = crashes_in(f"[    1.0] {text}\n")
    fails = "BUG:" in text or "LOCKUP" in text
    assert found.kind.weight is (Weight.FAILS if fails else Weight.SAID)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_words_that_come_in_pieces_are_found_once(size):
    lines = [f"[    1.0] {text}\r\n" for text in (SAID["oops"][4], SAID["panic"][1])]
    text, watch = "".join(lines), Watch()
    for at in range(0, len(text), size):
        watch.feed(text[at : at + size])
    assert [one.kind.name for one in watch.found] == ["oops", "panic"]


@pytest.mark.parametrize(("name", "text"), [ROWS[0], ROWS[8], ROWS[-1]])
def test_words_between_megabytes_of_noise_are_found(tmp_path, name, text):
    console = Console(tmp_path / "console.log")
    for noise in ("x" * (3 << 20), "[" * (1 << 20), "BUG: [# Oops" * (1 << 16)):
        with console.path.open("a") as file:
            file.write(f"{noise}\n")
        console.crashes()
    with console.path.open("a") as file:
        file.write(f"[    1.0] {text}\n")
    assert [one.kind.name for one in console.crashes()] == [name]


def test_the_passage_goes_from_the_first_word_to_the_end_of_the_last_trace():
    trace = [f"[    1.0]  some_function+0x{n}/0x10" for n in range(20)]
    oops = [
        f"[    1.0] {SAID['oops'][3]}",
        *trace,
        "[    1.0] ---[ end trace 0000000000000000 ]---",
    ]
    panic = ["[    1.1] Kernel panic - not syncing: Fatal exception", "[    1.1] Offset",
             "[    1.2] ---[ end Kernel panic - not syncing: Fatal exception ]---"]  # fmt: skip
    shown = ["[    1.0] ------------[ cut here ]------------", *oops, *panic]
    text = "\n".join(["booting", "up", *shown, "after"])
    assert passage(text) == "\n".join(shown)


def test_a_passage_without_end_is_bounded():
    lines = [f"[    1.0] {SAID['oops'][3]}"] + ["[    1.0] x" * 100] * 200
    many = "\n".join(lines * 10)
    assert len(passage(many)) < 100_000
    assert passage(many).startswith(lines[0])
    assert "lines left out" in passage(many)
