"""Single changes to the code that the suite has to notice, and a runner that tries each.

    python tests/mutants.py                  all of them; exit status 1 below nine in ten noticed
    python tests/mutants.py --only NAME      one of them, or several
    python tests/mutants.py --list           what there is

Each is made in a copy of the checkout, never in place. `test_mutants.py` sees to it that each can
still be made. To add one: break a line, see that a quick test file goes red, write both down here.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
ENOUGH = 0.9
SECONDS = 120.0
_COPIED = ("pytest_vmports", "tests", "conftest.py", "pyproject.toml")
_NO_TESTS = 5  # pytest's exit status


class Mutant(NamedTuple):
    """One change: ``old``, which is in ``file`` once, becomes ``new``; ``tests`` are to notice."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


class StaleMutantError(Exception):
    """The text that a mutant changes is not in its file exactly once."""


def changed(root: Path, mutant: Mutant) -> str:
    """Return the file's text with the change.

    Raises:
        StaleMutantError: the change cannot be made any more.
    """
    text = (root / mutant.file).read_text()
    if (times := text.count(mutant.old)) != 1:
        where = f"is in {mutant.file} {times} times and not once"
        raise StaleMutantError(f"{mutant.name}: its text {where}: {mutant.old!r}")
    return text.replace(mutant.old, mutant.new)


# --- the list -----------------------------------------------------------------------------------


def _of(file: str, *tests: str, **changes: tuple[str, str]) -> list[Mutant]:
    return [
        Mutant(name.replace("_", "-"), file, old, new, tests)
        for name, (old, new) in changes.items()
    ]


_WALLS = (
    _of(
        "pytest_vmports/system/gate.py",
        "tests/system/test_gate.py",
        gate_lets_pass_what_a_failing_policy_says=("elif verdict != 0:", "elif verdict:"),
        gate_waits_for_a_connect=(
            'may_wait = name == "connect" and os.get_blocking(copy.fileno())',
            "may_wait = False",
        ),
        gate_tells_of_no_fault=("answer = -errno.EACCES\n        try:", "answer = 0\n        try:"),
        gate_lets_as_many_wait_as_ask=(
            "not self._waiting.acquire(blocking=False)",
            "not self._waiting",
        ),
        gate_is_kept_open_by_forks=("for listener in _listeners:", "for listener in ():"),
    )
    + _of(
        "pytest_vmports/system/seccomp.py",
        "tests/system/test_gate.py",
        gate_knows_no_fast_open=("(_IF_ANY, 0, 1, _FAST_OPEN)", "(_IF_ANY, 0, 1, 0)"),
        gate_lets_datagrams_out_by_path=(
            "(socket.AF_UNIX, socket.SOCK_SEQPACKET)",
            "(socket.AF_UNIX, socket.SOCK_DGRAM)",
        ),
    )
    + _of(
        "pytest_vmports/system/seccomp.py",
        "tests/hostile/test_taken_over.py",
        children_outlive_us=("(_IF_EQUAL, 1, 0, signal.SIGKILL),", "(_IF_EQUAL, 1, 1, 0),"),
        children_change_our_limits=("(_IF_EQUAL, 1, 0, 0),\n        _DENIED", "(_IF_EQUAL, 1, 1, 0),\n        _DENIED"),
        children_make_processes=("steps += _forks(_KILL)", "steps += _forks(_ALLOW)"),
    )
    + _of(
        "pytest_vmports/system/minder.py",
        "tests/system/test_minder.py",
        minder_is_kept_waiting_by_forks=("os.dup2(nowhere, self.pipe, inheritable=False)", "pass"),
        minder_forgets_who_gets_a_number=("        forget(pid)\n", "        word = word if pid not in minded else word[1:]\n"),
    )
    + _of(
        "pytest_vmports/system/process.py",
        "tests/hostile/test_taken_over.py",
        children_inherit_secrets=("variables(public=confinement is not None)", "variables()"),
    )
    + _of(
        "pytest_vmports/system/landlock.py",
        "tests/system/test_landlock.py",
        landlock_lets_write_what_is_read=(
            "walls.read, files & (_EXECUTE | _READ | _LIST)", "walls.read, files",
        ),
        landlock_lets_make_devices=("walls.write, files & ~_NEVER", "walls.write, files"),
    )
    + _of(
        "pytest_vmports/system/program_files.py",
        "tests/hostile/test_honest.py",
        places_nobody_may_look_at_raise=("if os.path.exists(one)}", "if one.exists()}"),
        a_script_of_the_systems_is_not_tried=(
            "if of_the_system and not script:", "if of_the_system:",
        ),
    )
    + _of(
        "pytest_vmports/network/names.py",
        "tests/network/test_names.py",
        a_server_that_refuses_is_believed=("if answer.rcode() in _VERDICTS:", "if True:"),
        a_link_local_server_loses_its_zone=("resolving.PORT, 0, index))", "resolving.PORT))"),
    )
    + _of(
        "pytest_vmports/network/walls.py",
        "tests/hostile/test_walls.py",
        gvproxy_makes_files=(
            "own = () if gate.problem() is None else (sockets,)", "own = (sockets,)",
        ),
    )
    + _of(
        "pytest_vmports/network/gvproxy.py",
        "tests/hostile/test_walls.py",
        gvproxy_has_forwards_again=("        self._doorman.forbid(port)\n        self._api", "        self._api"),
    )
    + _of(
        "pytest_vmports/network/passt.py",
        "tests/network/test_passt_wiring.py",
        passt_asks_for_routes_later=("return 0 if self.opening else errno.EACCES", "return 0"),
        passt_takes_any_port_of_the_hosts=("first <= asked.address[1] <= last", "True"),
        passt_looks_beyond_the_host=("in _GUESTS_OWN:", "in ():"),
        passt_makes_addresses_up=('if not online or not _leads_to("192.0.2.1"):', "if not online:"),
    )
    + _of(
        "pytest_vmports/system/passt.py",
        "tests/network/test_passt_wiring.py",
        an_old_passt_is_taken=("if needed.code:", "if False:"),
    )
    + _of(
        "pytest_vmports/network/outgoing.py",
        "tests/network/test_outgoing.py",
        guest_reaches_a_clouds_secrets=("if address.is_link_local:", "if False:"),
        guest_is_led_to_the_host_by_a_name=("if of_the_host:", "if False:"),
    )
    + _of(
        "pytest_vmports/network/names.py",
        "tests/hostile/test_net.py",
        name_learns_of_any_class=("(question.rdclass, question.rdtype)", "(1, question.rdtype)"),
        name_begins_without_room=("if self._answering >= MOST_AT_ONCE:", "if False:"),
        name_breaks_by_an_answer_as_question=("with _read(_GUEST, asked):", "if True:"),
    )
    + _of(
        "pytest_vmports/network/destinations.py",
        "tests/network/test_destinations.py",
        list_has_names_within_labels=('if "\\\\" in plain:', "if False:"),
        list_has_another_name=("if not same:", "if False:"),
    )
    + _of(
        "pytest_vmports/system/listeners.py",
        "tests/system/test_listeners.py",
        listeners_are_all_that_are_bound=("if int(row[1], 16) & _LISTENING:", "if row[1]:"),
    )
)  # fmt: skip

_SHELL = (
    _of(
        "pytest_vmports/vm/inside/unpack.py",
        "tests/vm/test_copying.py",
        get_lets_names_climb_out=('if ".." in inside.parts:', 'if "..." in inside.parts:'),
        get_keeps_setuid=(
            "fchmod(self._file.fileno(), self._entry.mode & 0o777)",
            "fchmod(self._file.fileno(), self._entry.mode)",
        ),
        get_keeps_sticky=(
            "self._entry.mode & 0o777)\n            os.utime",
            "self._entry.mode & 0o1777)\n            os.utime",
        ),
        get_makes_second_names_of_anything=(
            "first = str(PurePosixPath(entry.target).relative_to(self._name))",
            "self._made[first := entry.target] = True",
        ),
        get_writes_through_links=("elif not stat.S_ISDIR(mode):", "elif not path.is_dir():"),
        get_writes_to_what_is_there=(
            "stat.S_ISLNK(mode) and path != self._place",
            "stat.S_ISLNK(mode)",
        ),
        get_says_nothing_of_pipes=("self._leave_out(entry)", "pass"),
        get_forgets_the_times_of_folders=("os.utime(path, (when, when))", "pass"),
    )
    + _of(
        "pytest_vmports/vm/inside/unpack.py",
        "tests/hostile/test_get.py",
        get_has_no_limit=("if self._room < 0:", "if False:"),
        get_makes_files_without_end=("if self._count < 0:", "if False:"),
        get_counts_no_folder_on_the_way=("self._count_one(one.name)", "pass"),
        get_keeps_half_a_file=("self._path.unlink(missing_ok=True)", "pass"),
        get_takes_a_part_for_the_whole=("self._archive.finish()", "pass"),
    )
    + _of(
        "pytest_vmports/vm/inside/unpack.py",
        "tests/hostile/test_guest_links.py",
        get_opens_folders_that_were_there=("found & (mode | 0o7700)", "mode & 0o1777"),
        get_takes_its_own_folders_for_found=("elif str(path) not in self._folders:", "else:"),
        get_forgets_whose_a_link_is=(
            "guest_links.mark(path, _times(entry)[0])",
            "os.utime(path, _times(entry), follow_symlinks=False)",
        ),
    )
    + _of(
        "pytest_vmports/vm/inside/guest_links.py",
        "tests/hostile/test_guest_links.py",
        links_of_odd_times_are_forgotten=(
            "for whole in (int(seconds), 0):",
            "for whole in (int(seconds),):",
        ),
        links_that_climb_stay=('or ".." in ways', ""),
        links_in_links_are_not_looked_at=("        left += ways\n", ""),
    )
    + _of(
        "pytest_vmports/vm/inside/qemu_agent.py",
        "tests/hostile/test_late.py",
        a_late_answer_is_taken_for_the_next=("if answered == asked[-1]:", "if answered in asked:"),
        an_agent_takes_its_time=(
            "self._one_at_a_time, patience.at_most(most_seconds):",
            "self._one_at_a_time:",
        ),
    )
    + _of(
        "pytest_vmports/vm/inside/agent_shell.py",
        "tests/hostile/test_late.py",
        a_command_begins_after_its_time=("if self._killed:  # its", "if False:  # its"),
        a_kill_that_missed_is_all=("if clock.now() >= self._again:", "if False:"),
    )
    + _of(
        "pytest_vmports/vm/inside/shell.py",
        "tests/hostile/test_late.py",
        our_own_questions_have_no_limit=(
            "return MAX_OUTPUT if sink is None and",
            "return most if sink is None and",
        ),
    )
    + _of(
        "pytest_vmports/vm/inside/archive.py",
        "tests/hostile/test_get.py",
        get_believes_in_holes=("if head.type == tarfile.GNUTYPE_SPARSE or", "if"),
        get_reads_any_header=(
            "head.type in _BEFORE and head.size > _LONGEST_HEADER",
            "head.type in _NAMES and head.size > _LONGEST_HEADER",
        ),
        get_counts_below_nothing=("if head.size < 0:", "if False:"),
        get_reads_on_for_ever=("_drop, _no_end)", "_drop, lambda: self._await(512, _drop, str))"),
        get_takes_any_number=("text.isascii() and text.isdigit()", "text"),
        get_takes_a_pieces_end_for_a_block=("self._left -= len(piece)", "self._left = 0"),
    )
    + _of(
        "pytest_vmports/vm/inside/pack.py",
        "tests/vm/test_copying.py",
        put_keeps_the_owner=("entry.uid = entry.gid = 0", "entry.gid = 0"),
        put_keeps_the_owners_name=('entry.uname = entry.gname = "root"', 'entry.gname = "root"'),
        put_believes_a_size=(
            "entry.size = len(first)\n",
            "entry.size = os.fstat(number).st_size\n",
        ),
        put_says_nothing_of_sockets=("self.left_out.append(path)", "pass"),
        put_names_a_link_by_its_end=("named = self.source.name", 'named = ""'),
    )
    + _of(
        "pytest_vmports/vm/inside/copying.py",
        "tests/vm/test_copying.py",
        get_forgets_the_time_while_it_writes=("        self._in_time()\n        if", "        if"),
        get_collects_complaints_without_end=("if len(heard) > _MOST_SAID:", "if False:"),
        get_believes_in_empty_files=("/proc|/proc/*|/sys|/sys/*)", "/nowhere)"),
        get_takes_a_name_for_what_it_quotes=("as_is=--no-unquote", "as_is="),
        put_forgets_the_times_of_folders=("if done and pack.has_links:", "if False:"),
        put_replaces_a_file_by_a_folder=("elif {clash}; then", "elif false; then"),
        a_dot_is_a_name=('in {".", ".."}\n\n\ndef _utf8', 'in {"..."}\n\n\ndef _utf8'),
    )
    + _of(
        "pytest_vmports/vm/inside/shell.py",
        "tests/vm/test_shell.py",
        a_command_may_be_an_option=('if whole.startswith(("-", "+")):', "if not whole:"),
    )
    + _of(
        "pytest_vmports/vm/inside/window.py",
        "tests/hostile/test_said.py",
        an_agent_is_believed_for_the_one_before=("self._map[told] = bytes(_NONCE)", "pass"),
        a_window_can_be_cut_short=("fcntl.F_SEAL_SHRINK | ", ""),
    )
    + _of(
        "pytest_vmports/vm/inside/window.py",
        "tests/vm/test_snapshots.py",
        a_state_says_where_the_window_was=("if at >= 0:", "if False:"),
    )
    + _of(
        "pytest_vmports/vm/inside/agent_shell.py",
        "tests/guests/test_agent.py",
        an_interrupted_command_answers_later=("self._last.pass_over(self.check)", "pass"),
    )
    + _of(
        "pytest_vmports/vm/inside/ssh.py",
        "tests/vm/test_ssh.py",
        ps_shows_the_end=("''{mark[16:]}", "{mark[16:]}"),
        what_runs_on_is_waited_for=("limit.left, mark=mark,", "limit.left,"),
    )
    + _of(
        "pytest_vmports/vm/inside/ssh_login.py",
        "tests/vm/test_ssh_login.py",
        each_command_logs_in=('return sharing(self._socket, "no")', "return []"),
        a_login_that_has_ended_stays=(
            "return self.process.running and self._socket.exists()",
            "return self._socket.exists()",
        ),
    )
    + _of(
        "pytest_vmports/vm/inside/ssh.py",
        "tests/vm/test_ssh_login.py",
        a_full_login_stays=(
            "            self._login.retire(shared)\n        elif",
            "            pass\n        elif",
        ),
    )
    + _of(
        "pytest_vmports/vm/inside/copying.py",
        "tests/hostile/test_get.py",
        what_only_talks_goes_on=("elif self._limit.over:", "elif False:"),
    )
    + _of(
        "pytest_vmports/vm/inside/qemu_agent_stream.py",
        "tests/vm/test_qemu_agent.py",
        the_agents_pipes_stay=("; rm -rf {d}", ""),
    )
    + _of(
        "pytest_vmports/vm/inside/pack.py",
        "tests/vm/test_streaming.py",
        put_sends_all_at_once=("_PIECE, _TOGETHER = 1 << 20,", "_PIECE, _TOGETHER = 1 << 30,"),
        put_cuts_what_shrinks=("data = bytes(min(left, _PIECE))", "return"),
    )
    + _of(
        "pytest_vmports/vm/arguments.py",
        "tests/vm/test_shell.py",
        a_first_word_may_be_an_assignment=(
            """return "'" + word.replace("'", "'\\"'\\"'") + "'\"""",
            "return __import__('shlex').quote(word)",
        ),
        cwd_may_be_an_option=('if path.startswith("/") else', "if True else"),
    )
    + _of(
        "pytest_vmports/vm/owner.py",
        "tests/pool/test_handle.py",
        a_child_is_its_parent=("return os.getpid() == self.pid", "return True"),
    )
)
_CARDS = _of(
    "pytest_vmports/network/more_cards.py",
    "tests/network/test_more_cards.py",
    further_cards_lead_out=("restrict=on", "restrict=off"),
    further_cards_have_one_address=("{number:02x}", "01"),
)
_GDB = _of(
    "pytest_vmports/vm/gdb.py",
    "tests/vm/test_gdb.py",
    a_paused_vm_runs=('["-S", "-chardev"', '["-chardev"'),
    a_paused_vm_waits_for_gdb=("server=on,wait=off", "server=on,wait=on"),
)
_BOARDS = _of(
    "pytest_vmports/system/architecture.py",
    "tests/system/test_architecture.py",
    q35_takes_plugs=('"pc-q35", "hot_plugs": False', '"pc-q35", "hot_plugs": True'),
    microvm_is_emulated=('"emulated": False', '"emulated": True'),
)
_COMMAND = _of(
    "pytest_vmports/vm/argv.py",
    "tests/vm/test_argv.py",
    seed_may_be_written=(
        "format=raw,readonly=on,file={escaped(drives.seed)}",
        "format=raw,file={escaped(drives.seed)}",
    ),
    firmware_may_be_written=("unit=0,format=raw,readonly=on", "unit=0,format=raw"),
    sandbox_without_resourcecontrol=(",resourcecontrol=deny", ""),
    sandbox_without_spawn=(",spawn=deny", ""),
    sandbox_without_elevateprivileges=(",elevateprivileges=deny", ""),
    sandbox_without_obsolete=("on,obsolete=deny,", "on,"),
    sandbox_asked_of_who_has_none=(" and hardware.qemu.has_sandbox", ""),
    disk_is_not_booted_first=("drive=root,bootindex=1", "drive=root,bootindex=2"),
    disk_without_random_numbers=(
        ',bootindex=1", "-device", "virtio-rng-pci"]',
        ',bootindex=1"]',
    ),
    disk_is_synced=('"cache=unsafe"', '"cache=writeback"'),
    capture_at_a_fixed_netdev=("netdev={capture.netdev}", "netdev=n0"),
    defaults_are_there=('"vmports", "-nodefaults", ', '"vmports", '),
    users_files_are_read=('"-nodefaults", "-no-user-config"', '"-nodefaults"'),
    reboots=("() if hardware.reboots else", "() if True else"),
    further_disks_have_no_serial=(",serial=disk{number}", ""),
    guests_change_the_keys=("property=secure,value=on", "property=secure,value=off"),
    words_for_qemu_are_lost=("*sandbox, *hardware.qemu_args]", "*sandbox]"),
    a_processor_is_not_as_asked=("            return self.cpu\n", "            pass\n"),
    bios_writes_to_the_screen=('machine += ",graphics=off"', 'machine += ""'),
    disks_draw_the_same_numbers=(
        "*(() if fitting.seeded else hardware.qemu.architecture.restored_args),",
        "",
    ),
    arm64_has_no_control_channel=(
        "*qemu.architecture.control_args,",
        '*("-serial", "chardev:control"),',
    ),
    what_is_half_saved_is_cloned=("self.qemu.version >= first", "self.qemu.version > first"),
    memory_of_clones_is_shared=("'on' if ram.share else 'off'", "'on' if ram else 'off'"),
    agent_by_another_name=("org.qemu.guest_agent.0", "org.qemu.guest_agent.1"),
    console_waits_for_a_reader=("server=on,wait=off", "server=on,wait=on"),
    commas_end_a_path=('.replace(",", ",,")', '.replace(",", ",")'),
)
_READINESS = _of(
    "pytest_vmports/vm/readiness.py",
    "tests/vm/test_readiness.py",
    http_likes_client_errors=("range(200, 400)", "range(200, 405)"),
    http_dislikes_redirections=("range(200, 400)", "range(200, 300)"),
    http_likes_100=("range(200, 400)", "range(100, 400)"),
    http_takes_any_protocol=('rb"HTTP/[0-9.]{1,8} +', 'rb"\\S{1,8} +'),
    http_asks_for_the_root=("GET {self.wait_for.path} HTTP", "GET / HTTP"),
    a_close_is_an_answer=("return bool(connection.recv(1, socket.MSG_PEEK))", "return True"),
    a_reset_is_an_answer=(
        "except ConnectionResetError:\n        return False",
        "except ConnectionResetError:\n        return True",
    ),
    a_taken_connection_is_no_answer=(
        "            if accepted():\n                return True\n            # A restored",
        "            # A restored",
    ),
    taken_and_closed_is_a_refusal=(
        "                if fate:\n                    return True\n",
        "",
    ),
    all_is_content_with_one=('if self.wait_for.mode == "any":', "if True:"),
    any_wants_all=('if self.wait_for.mode == "any":', "if False:"),
    the_deadline_is_passed_over=(
        "            if clock.now() >= deadline:\n                return\n",
        "",
    ),
    one_try_takes_all_time=(
        "until = min(deadline, clock.now() + _ONE_TRY_SECONDS)",
        "until = deadline",
    ),
    silence_takes_back_what_was_said=(
        "if self.answers[port.internal] == _NOT_ASKED:",
        "if self.answers:",
    ),
    no_forward_is_a_crash=(
        "except OSError as error:\n            self.answers",
        "except KeyError as error:\n            self.answers",
    ),
    given_ports_are_ignored=("wiring.ports if ports is None else ports", "wiring.ports"),
)
_LISTENING = _of(
    "pytest_vmports/vm/inside/listening.py",
    "tests/vm/test_listening.py",
    a_longer_answer_is_read=("if len(said) > _MOST_BYTES:", "if len(said) < 0:"),
    half_an_answer_is_read=(' or rows["end"]:', ":"),
    a_card_that_is_down_is_up=("if not flags & _UP:", "if not flags:"),
    another_address_reaches=("and _reached(one)]", "]"),
    a_dead_vm_is_only_silent=("    except MachineDiedError:\n        raise\n", ""),
)
_OUT = (
    _of(
        "pytest_vmports/errors/shown.py",
        "tests/hostile/test_out.py",
        older_commands_are_obeyed=(r'r"#(?=#[^\s\[]{0,40}\[)|section', 'r"section'),
        a_hiding_colour_passes=('number.lstrip("0") == "8"', 'number.lstrip("0") == "9"'),
        a_colour_takes_orders_along=(r"2(?:;\d*){3}|", r"2(?:;\d*){3,5}|"),
        marks_flood=("self._marks <= _MOST_MARKS", "self._marks <= 10**9"),
        wrapped_words_are_obeyed=('_ONCE_WRAPPED.sub(r"', '_OBEYED.sub(r"'),
        colours_join_words=("or _OBEYED.search(escaped(bare))", "or _OBEYED.search(text)"),
    )
    + _of(
        "pytest_vmports/errors/base.py",
        "tests/hostile/test_out.py",
        errors_are_obeyed=("text = printable(self._told()", "text = str(self._told()"),
        errors_do_not_quote=("if begins else within(", "if not begins else within("),
    )
    + _of(
        "pytest_vmports/cli/console_text.py",
        "tests/hostile/test_out.py",
        torn_sequences_pass=('"" if begun is None else begun[0]', '""'),
        torn_words_pass=("line = self._line or begin", "line = '| '"),
    )
    + _of(
        "pytest_vmports/report/shielded.py",
        "tests/hostile/test_out.py",
        what_a_test_prints_is_obeyed=("coloured(text)) for", "text) for"),
        what_a_subtest_prints_is_obeyed=(
            "= _fit(report.sections[so_far:])",
            "= report.sections[so_far:]",
        ),
    )
)
_HOPELESS = _of(
    "pytest_vmports/guests/hopeless.py",
    "tests/guests/test_hopeless.py",
    files_need_their_size_once=("needed = 2 * files + initrd", "needed = files + initrd"),
    comments_start_a_server=('line and not line.startswith(b"#") for', "line for"),
    a_byte_order_mark_is_a_command=('if data.startswith(b"\\xef', 'if data.endswith(b"\\xef'),
    a_programs_path_is_a_script=(" and not path.is_absolute())", ")"),
    a_script_of_files_is_missing=("PurePosixPath(setup).name in {", "setup in {"),
    a_reboot_that_may_not_be_is_booted=("seed.reboots and not may_reboot", "False"),
)
_TPM = _of(
    "pytest_vmports/vm/tpm.py",
    "tests/vm/test_tpm.py",
    it_writes_beside_its_folder=("Walls(needed, (state,),", "Walls(needed, (state.parent,),"),
    it_speaks_to_the_host=("*seccomp.SOCKETS", "seccomp.TCP"),
    it_makes_programs_of_their_owners=("made = seccomp.RIGHTS, ", "made = "),
)
_HOST_FILES = _of(
    "pytest_vmports/guests/host_files.py",
    "tests/guests/test_host_files.py",
    a_folder_is_a_kernel=("if kind == stat.S_IFDIR and folder:", "if kind == stat.S_IFDIR:"),
    an_address_is_a_typo=("if _ADDRESS.match(str(written)):", "if not written:"),
    what_may_not_be_read_is_let_through=("if not os.access(path, os.R_OK):", "if not path:"),
)
_RAW_IMAGE = _of(
    "pytest_vmports/guests/raw_image.py",
    "tests/guests/test_image.py",
    a_bios_boots_zeros=("and any(head[:_CODE])", ""),
    newer_disks_have_no_partitions=("for sector in (_SECTOR, 4096)", "for sector in (_SECTOR,)"),
)
_HANDSHAKE = _of(
    "pytest_vmports/network/handshake.py",
    "tests/network/test_handshake.py",
    silence_is_a_refusal=(
        "self.accepted: bool | None = None",
        "self.accepted: bool | None = False",
    ),
)
_CONTROL = _of(
    "pytest_vmports/vm/inside/control.py",
    "tests/vm/test_control.py",
    any_frame_is_the_one=("if frame[0] == kind:", "if frame[0]:"),
    clock_without_fraction=("int((now - whole) * 1e9)", "0"),
    a_frame_without_its_last_byte_is_one=(
        "if len(self._unread) < _HEAD + size:",
        "if len(self._unread) < _HEAD + size - (size > 0):",
    ),
    pieces_are_lost=("self._unread += data", "self._unread = bytearray(data)"),
    the_next_frame_is_lost=(
        "del self._unread[: _HEAD + size]",
        "self._unread.clear()",
    ),
    sizes_are_big_endian=('(_HEAD - 1, "little")', '(_HEAD - 1, "big")'),
)
_CHANNEL = _of(
    "pytest_vmports/vm/inside/channel.py",
    "tests/vm/test_control.py",
    deaths_wake_nobody=("[self._connection, *deaths]", "[self._connection]"),
)
_SAID = _of(
    "pytest_vmports/system/said.py",
    "tests/hostile/test_said.py",
    a_bool_is_a_number=("strict=True, frozen=True", "frozen=True"),
    digits_of_any_script=("_WHOLE.fullmatch(text) is None or ", ""),
    a_name_may_be_there_twice=("if len(found) != len(members):", "if not members and found:"),
)
_SPOKEN = _of(
    "pytest_vmports/vm/inside/control.py",
    "tests/hostile/test_said.py",
    a_broken_channel_is_believed_again=(
        "        if self._broken is not None:\n",
        "        if False:\n",
    ),
    a_frame_of_any_length=("if size > longest:", "if size > longest + (16 << 20):"),
)
_POWER = _of(
    "pytest_vmports/vm/snapshots.py",
    "tests/vm/test_snapshots.py",
    paused_vms_go_on=("        if running:\n", "        if True:\n"),
    running_vms_stay_paused=("        if running:\n", "        if False:\n"),
    a_running_vm_is_saved=(
        'machine.monitor.execute("stop")',
        'machine.monitor.execute("query-status")',
    ),
    a_snapshot_is_written_over=('state.open("xb")', 'state.open("w+b")'),
    a_disk_is_not_written_out=('machine.monitor.execute("quit")', "pass"),
    qemu_is_killed_while_it_writes=("machine.processes()[0].wait(_QUIT_SECONDS)", "pass"),
    a_reset_loses_the_disk=("machine.stop(keep_disks=True)", "machine.stop()"),
    a_restore_keeps_the_disk=("saved.bring_back_disks(machine.workdir)", "pass"),
    a_restore_keeps_what_was_said=(
        "begin_anew(saved.console)",
        "begin_anew(machine.console.recent())",
    ),
    a_restart_forgets_a_failure=(
        "        raise died\n    if machine.running:",
        "        pass\n    if machine.running:",
    ),
)
_CLONE = _of(
    "pytest_vmports/pool/templates.py",
    "tests/pool/test_templates.py",
    a_builders_memory_is_not_saved=(
        'Ram(folder / "ram", share=True)',
        'Ram(folder / "ram", share=False)',
    ),
    given_up_is_forgotten=("self._without.add(plan.family)", "pass"),
    a_template_fails_for_ever=("if template.folder.name in self._failed:", "if False:"),
    whoever_keeps_its_address_is_cloned=("if plan.network.lan is not None and", "if False and"),
    whatever_the_kind_it_is_cloned=(
        "(why := plan.kind.why_no_template) is None",
        "(why := ' ')",
    ),
    the_reason_is_said_every_time=("if line not in self._told:", "if True:"),
)
_LAUNCH = _of(
    "pytest_vmports/pool/launch.py",
    "tests/pool/test_templates.py",
    a_builder_has_no_ports=(
        "machine.start(exposed.pass_fds)\n                    with found_out",
        "with found_out",
    ),
    a_builder_lives_on=(
        "                raise\n            machine.stop()\n",
        "                raise\n",
    ),
    a_builder_that_failed_lives_on=(
        "                self.end_failed(machine, error)\n                raise\n            machine",
        "                raise\n            machine",
    ),
    a_builders_taken_port_ends_the_test=("if not left or _is_fixed", "if True or _is_fixed"),
    one_that_cannot_be_saved_is_an_error=(
        "except MonitorError as error:",
        "except KeyError as error:",
    ),
    cold_boots_are_cloned=("exposed, observe) if cloned else None", "exposed, observe)"),
    a_broken_template_is_used_for_ever=(
        "self._templates.discard(template, plan, error)",
        "pass",
    ),
)
_FAILED_STARTS = _of(
    "pytest_vmports/pool/failed_starts.py",
    "tests/pool/test_failed_starts.py",
    the_first_test_may_not_try_again=(
        "first.test == current_test() or not current_test()",
        "not current_test()",
    ),
    a_busy_host_is_tried_once=("again is not None or not first.host", "True"),
    a_busy_host_is_tried_for_ever=("self._began > first.at", "False"),
    two_at_one_time_are_two_tries=("self._began > first.at", "True"),
    who_has_waited_is_no_second_try=(
        "        self._began = clock.now()\n",
        "        self._began = self._began or clock.now()\n",
    ),
    one_bad_vm_ends_the_run=(
        "            self._note_ready(key)\n",
        "            pass\n",
    ),
    kinds_without_their_timeout=('"boot_timeout": plan.boot_timeout,', ""),
    kinds_without_their_ports=('"ports": ports,', ""),
)
_BLAME = _of(
    "pytest_vmports/pool/blame.py",
    "tests/pool/test_blame.py",
    a_kill_is_evidence=("signal.SIGKILL, ", ""),
    no_memory_is_evidence=("_is_short(error.stderr)", "False"),
)
_PLAN = _of(
    "pytest_vmports/vm/plan.py",
    "tests/pool/test_template.py",
    key_without_the_argv=(
        '"argv": self._masked(replace(self.network, relayed=False), ())[1:],',
        "",
    ),
    key_without_the_guest=('"guest": self.guest.digest(self.root, qemu.architecture),', ""),
    key_without_the_proof=('"ready": f"{self.wait_for}: {asked}",', ""),
    key_without_qemu=('"qemu": [qemu.build, content_digest(Path(qemu.path))],', ""),
    key_by_qemus_words_alone=("[qemu.build, content_digest(Path(qemu.path))]", "qemu.build"),
    key_with_the_relay=("replace(self.network, relayed=False), ())", "self.network, ())"),
    waiting_for_any_host_port=('update={"external": 0}', "update={}"),
    waiting_for_any_service=('"services": sorted(self.network.host_ports),', ""),
    waiting_for_any_capture=('"capture": self.capture,', ""),
    waiting_for_any_ports=("self._masked(self.network, blank)", "self._masked(self.network, ())"),
)
_PATHS = _of(
    "pytest_vmports/system/paths.py",
    "tests/settings/test_homes.py",
    "tests/system/test_paths.py",
    homes_are_folders=('if text.startswith("~"):', 'if text.startswith("~/~"):'),
    urls_are_not_quoted=("quote(as_bytes(path))", "os.fspath(path)"),
    texts_have_no_bytes=('text.encode("utf-8", "surrogateescape")', "text.encode()"),
)
_PROBING = _of(
    "pytest_vmports/system/probing.py",
    "tests/system/test_probing.py",
    limits_are_missing_programs=("if error.errno in _REMEDIES:", "if not error.errno:"),
    kills_are_missing_programs=("if number in set(signal.Signals) and", "if not number and"),
)
_NAMES = _of(
    "pytest_vmports/settings/table.py",
    "tests/settings/test_homes.py",
    other_letters_are_unknown_to_us=("and key == spell(name)", ""),
    leased_ports_are_mistakes=("if near or not leased:", "if True:"),
)
_KINDS = _of(
    "pytest_vmports/vm/inside/disk.py",
    "tests/guests/test_image.py",
    ssh_is_leased_twice=("if self._image.ssh and not asked else []", "if self._image.ssh else []"),
    a_kernel_wants_firmware=(
        "if self._direct or self.by_bios:",
        "if self.by_bios:",
    ),
    variables_are_shared=(
        "(self._firmware.code, variables), self",
        "(self._firmware.code, self._firmware.variables), self",
    ),
)
_WAYS = [
    *_of(
        "pytest_vmports/vm/inside/disk.py",
        "tests/vm/test_disk_ways.py",
        clones_are_asked_again=("if self._restored:", "if False:"),
        a_clone_forgets_its_agent=("and self._note.exists():", "and not self._note.exists():"),
        an_old_note_is_believed=("self._note.unlink(missing_ok=True)", "pass"),
    ),
    *_of(
        "pytest_vmports/vm/inside/agent_link.py",
        "tests/vm/test_disk_ways.py",
        a_clock_is_sent_twice=("if not self._clock_sent:", "if True:"),
        a_deaf_agent_is_there=("self.there = answer is not None", "self.there = True"),
    ),
    *_of(
        "pytest_vmports/guests/overlay.py",
        "tests/guests/test_overlay.py",
        an_overlay_lacks_an_entry=(
            "entries = -(-size // _OF_AN_ENTRY)",
            "entries = size // _OF_AN_ENTRY",
        ),
    ),
]
_FAILURES = _of(
    "pytest_vmports/vm/failures.py",
    "tests/vm/test_failures.py",
    "tests/vm/test_snapshots.py",
    a_panic_is_cut_off=("vitals.qemu.wait(_PANIC_SECONDS)", "pass"),
    last_words_are_not_heard=(
        'return self.monitor.why_ended() or next(told, "")',
        "return self.monitor.why_ended()",
    ),
    a_killed_qemu_is_no_failure=(
        'if error is None or error.program != "QEMU" or vitals.qemu.returncode != 0:',
        'if error is None or error.program != "QEMU":',
    ),
    a_full_disk_is_no_failure=(
        'if error is None or error.program != "QEMU" or vitals.qemu.returncode != 0:',
        'if error is None or error.program != "QEMU" or vitals.qemu.returncode:',
    ),
    a_full_disk_is_not_seen=("return _paused(vitals)", "return None"),
)
_ALLOCATOR = _of(
    "pytest_vmports/leases/allocator.py",
    "tests/leases/test_allocator.py",
    no_grace_for_a_port_that_is_coming_free=("_GRACE: Final = 1.0", "_GRACE: Final = 0.0"),
    waiting_is_told_at_once=("waited >= _MOMENT", "waited >= 0"),
    a_range_is_tried_once=("if leases or not (contended or", "if True or (contended or"),
    an_empty_range_is_tried_six_times=(
        "if leases or not (contended or",
        "if leases and (contended or",
    ),
    waits_for_ever=("if waited >= max(timeout, 5 * _POLL):", "if waited >= 1e9:"),
)
_STORE = _of(
    "pytest_vmports/system/store.py",
    "tests/pool/test_template.py",
    eviction_takes_the_new_one=("folder.name != keep and self._remove", "self._remove"),
    eviction_takes_what_is_used=("fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_SH | fcntl.LOCK_NB"),
    eviction_takes_the_latest_used=("key=last_use)", "key=last_use, reverse=True)"),
    a_damaged_template_is_used=("if one.sound(key):", "if one:"),
    all_who_waited_build=("self.use(facts) or self._build", "self._build"),
)
_READERS = _of(
    "pytest_vmports/leases/allocator.py",
    "tests/leases/test_record.py",
    a_reader_is_a_holder=("return not self._met <= {", "return bool(0) and self._met <= {"),
)
_SMALL_FILE = _of(
    "pytest_vmports/system/small_file.py",
    "tests/system/test_small_file.py",
    a_fifo_is_waited_for=("os.O_NONBLOCK | os.O_NOCTTY", "os.O_NOCTTY"),
    a_file_of_any_kind_is_read=("if not stat.S_ISREG(", "if False and not stat.S_ISREG("),
    nesting_ends_the_run=("except RecursionError:", "except UnicodeError:"),
)
_KEPT_NOTE = _of(
    "pytest_vmports/pool/kept.py",
    "tests/system/test_small_file.py",
    a_group_is_a_process=("return pid in _PIDS and start > 0", "return True"),
)
_TOOLS = _of(
    "pytest_vmports/system/tools.py",
    "tests/system/test_tools.py",
    a_tool_is_not_ended=("        stack.callback(_end, child)\n", ""),
    a_tool_is_waited_for_to_its_end=(
        "while parts.open and not parts.beyond(most) and not limit.over:",
        "while parts.open:",
    ),
)
_SURROUNDINGS = _of(
    "pytest_vmports/system/surroundings.py",
    "tests/system/test_surroundings.py",
    a_thread_changes_things_under_a_test=("    if _thread.beside:\n", "    if False:\n"),
    a_child_keeps_a_tests_limits=("if not _thread.beside or not", "if True or not"),
    a_patch_is_not_put_back=("undo.callback(_set, home, name, now)", "pass"),
    modules_stay_hidden=("for name in hidden.union(", "for name in set().union("),
) + _of(
    "pytest_vmports/pool/standby.py",
    "tests/pool/test_standby.py",
    a_test_ends_what_is_made_ready=("if changed():", "if False:"),
    a_failure_long_ago_counts=(
        "            self._failures = 0\n            # Who",
        "            # Who",
    ),
    what_is_made_ready_disturbs_the_test=("with beside_a_test():", "if True:"),
    those_that_nobody_wants_stay=(
        "                unwanted.append(machine)\n",
        "                pass\n",
    ),
    its_test_waits_until_it_is_warm=(
        "if machine is not None and not self._awaited:",
        "if machine:",
    ),
    those_that_wait_take_no_memory=("(2 * wanted + sum(waiting))", "(2 * wanted)"),
    who_asks_does_not_wait=("                self._state.wait()\n", "                break\n"),
)
_PRIVATE = (
    _of(
        "pytest_vmports/system/private_folder.py",
        "tests/system/test_private_folder.py",
        others_may_own_the_folder=("if facts.st_uid != user_id():", "if False:"),
        others_may_write_there=("if facts.st_mode & forbidden:", "if False:"),
        a_link_may_lead_anywhere=("if stat.S_ISLNK(facts.st_mode):", "if False:"),
    )
    + _of(
        "pytest_vmports/system/remembered.py",
        "tests/system/test_program_files.py",
        anybodys_answer_is_believed=("facts.st_mode & WRITE_ACCESS", "False"),
        an_answer_outlives_its_program=('kept["seen"] == seen and', "True and"),
        an_answer_outlives_its_libraries=("_state(name) == state for", "True for"),
        half_an_answer_is_kept=("and may_be_kept:", ":"),
    )
    + _of(
        "pytest_vmports/system/program_files.py",
        "tests/system/test_program_files.py",
        answers_ignore_the_loaders_variables=("if any(name.startswith(_LEADING)", "if any(False"),
    )
)
_WAIT_FOR = _of(
    "pytest_vmports/settings/wait_for.py",
    "tests/vm/test_readiness.py",
    ports_are_not_chosen=("if port.internal in self.ports]", "]"),
    udp_is_asked=('if port.protocol == "tcp"]', "]"),
)
_TEMPLATE = _of(
    "pytest_vmports/pool/template.py",
    "tests/pool/test_template.py",
    what_was_written_is_cloned=("if now != then:", "if False:"),
    state_by_its_path=("os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.lock", "os.O_RDONLY"),
)
_STORED = _of(
    "pytest_vmports/system/stored.py",
    "tests/pool/test_template.py",
    state_without_checksum=("hashlib.sha256(file.read())", "hashlib.sha256()"),
    any_key_is_the_one=('and manifest["key"] == key', ""),
    any_owner_is_right=("facts.st_uid == os.getuid()", "True"),
    any_folder_is_the_one=("and facts.st_ino == os.fstat(self.lock).st_ino", ""),
)
_IMAGES = _of(
    "pytest_vmports/images/images.py",
    "tests/images/test_fetched_images.py",
    a_name_is_never_asked_again=("0 <= age < (_FRESH if there else _JUST_ASKED)", "True"),
    a_change_is_not_said=("if known is not None and known.content != now.content:", "if False:"),
    what_failed_is_tried_again=("if asked in self._failed:", "if False:"),
    any_sha256_is_right=(
        "            if source.sha256 is not None:\n                fetch.compare(file",
        "            if False:\n                fetch.compare(file",
    ),
)
_FETCH = _of(
    "pytest_vmports/images/fetch.py",
    "tests/images/test_fetched_images.py",
    a_part_is_fetched_again=(
        'headers = {"Range": f"bytes={there}-"} if there else {}',
        "headers = {}",
    ),
    any_end_is_the_end=("if wanted.size and wanted.came < wanted.size:", "if False:"),
    it_may_take_all_day=("if wanted.came - then < _SLOW_BYTES:", "if False:"),
    it_may_be_of_any_size=("    if size > wanted.most:", "    if False:"),
    any_room_will_do=("    if missing > free:", "    if False:"),
)
_UNPACK = _of(
    "pytest_vmports/images/unpack.py",
    "tests/images/test_fetched_images.py",
    a_text_is_followed=("if file.read(len(_DESCRIPTOR)) == _DESCRIPTOR:", "if False:"),
    it_unpacks_to_any_size=("            if size > most:", "            if False:"),
)
_SAVED_IMAGE = _of(
    "pytest_vmports/images/saved_image.py",
    "tests/images/test_containers.py",
    a_damaged_layer_is_taken=('if f"sha256:{_sha256_of(plain)}" != digest:', "if False:"),
    a_damaged_manifest_is_taken=(
        'if digest is not None and f"sha256:{hashlib.sha256(text).hexdigest()}" != digest:',
        "if False:",
    ),
    it_reads_beside_itself=('if pure.is_absolute() or ".." in pure.parts:', "if False:"),
    any_architecture_will_do=('if _architecture(one) in {"", architecture}]', "if True]"),
)
_ROOT_TREE = _of(
    "pytest_vmports/images/root_tree.py",
    "tests/images/test_containers.py",
    a_layer_hides_what_it_brings=("if there.layer != self._layer:", "if True:"),
    links_lead_about_without_end=("if links > _MOST_LINKS:", "if False:"),
    a_hard_link_follows_its_name=("folder.children[name] = node\n", "pass\n"),
    names_lead_outside=('if ".." in parts:', "if False:"),
    our_own_part_is_overlaid=("        if name == _OURS:", "        if False:"),
)
_BOUNDED_TAR = _of(
    "pytest_vmports/images/bounded_tar.py",
    "tests/images/test_containers.py",
    a_header_may_be_endless=("if found.type in _TOLD and found.size > _MOST_HEADER:", "if False:"),
)
_TRAVEL = (
    _of(
        "pytest_vmports/pool/packed.py",
        "tests/pool/test_packed.py",
        an_unsigned_one_is_believed=("wanted.secret is not None and not signed", "False"),
        any_signature_will_do=("not hmac.compare_digest(", "not (lambda *_: True)("),
        another_key_will_do=("if wanted.key not in {None, key}:", "if False:"),
        any_name_is_written=("if not _NAMES.fullmatch(name)]", "if False]"),
        any_size_is_unpacked=(
            "if sum(file.size for file in files.values()) > wanted.most:", "if False:"),
        other_content_is_taken=("if _copy(tar, member, target, file) != file.digest:",
                                "if _copy(tar, member, target, file) is None:"),
        data_elsewhere_is_taken=("    if names.data_file:\n", "    if False:\n"),
    )
    + _of(
        "pytest_vmports/pool/remote.py",
        "tests/pool/test_remote.py",
        a_store_to_read_is_written=("if self._wanted.readonly or", "if"),
        a_dead_store_is_asked_again=('if self._noted("off") or self._noted(key):', "if False:"),
        what_worked_stays_on_trial=('self._note(f"{key}-{_WORKED}")', "pass"),
    )
    + _of(
        "pytest_vmports/system/processors.py",
        "tests/system/test_processors.py",
        no_rate_in_the_key=("or qemu.architecture.host_ticks", ""),
    )
    + _of(
        "pytest_vmports/report/recorded.py",
        "tests/report/test_run_record.py",
        shards_tests_are_one=('entry.test, entry.worker = f"{shard} {entry.test}"',
                              'entry.test, entry.worker = f"{entry.test}"'),
        a_record_swells_as_it_likes=("if unpacking.unconsumed_tail:", "if False:"),
    )
    + _of(
        "pytest_vmports/report/record.py",
        "tests/report/test_run_record.py",
        any_moment_is_drawn=("Field(ge=0, le=_LATEST)", "Field()"),
        a_test_that_is_run_again_is_one=('if key in current and phase.when != "setup":',
                                         "if key in current:"),
        a_broken_setup_is_a_failed_test=('"failed" if "call" in failed else "error"', '"failed"'),
    )
    + _of(
        "pytest_vmports/report/trace.py",
        "tests/report/test_trace_events.py",
        slices_overlap=("max(self._at(moment), free), end)", "self._at(moment), end)"),
        vms_share_a_thread=("if busy and busy[0][0] <= vm.leased:", "if busy:"),
    )
    + _of(
        "pytest_vmports/settings/table.py",
        "tests/settings/test_flags.py",
        a_flag_takes_a_tests_name=('f"{word}=yes" if word in flags else word', "word"),
    )
    + _of(
        "pytest_vmports/report/far.py",
        "tests/report/test_far.py",
        any_name_comes_home=("if self._home is None or not (", "if self._home is None and ("),
        any_size_comes_home=("or len(part.data) > self._left:", "or False:"),
    )
    + _of(
        "pytest_vmports/settings/carried.py",
        "tests/report/test_far.py",
        a_hosts_own_folder_is_lost=("if name not in os.environ or name not in _OF_THE_HOST:",
                                    "if True:"),
    )
    + _of(
        "pytest_vmports/guests/overlay.py",
        "tests/guests/test_overlay.py",
        a_file_says_itself_what_it_lies_on=("if said != right:", "if False:"),
    )
)  # fmt: skip
_DISK = _of(
    "pytest_vmports/guests/image.py",
    "tests/guests/test_image.py",
    identity_without_files=("content_digest(file) for file in files]", "0 for file in ()]"),
    identity_without_content=("[content_digest(file) for", "[str(file) for"),
    identity_without_chain=("    return found, files\n", "    return found, files[:1]\n"),
    identity_without_format=('"format": disk.format,', '"format": None,'),
    identity_without_firmware=('"firmware": disk.firmware,', '"firmware": "bios",'),
    identity_without_seed=("seed.hexdigest() if disk.seed else None", "None"),
    identity_with_empty_seed=(".encode() + content)", ".encode())"),
    identity_without_ssh=("[disk.ssh, disk.agent]", "[disk.agent]"),
    identity_without_agent=("[disk.ssh, disk.agent]", "[disk.ssh]"),
    encrypted_disks_are_booted=('bool(json.loads(text).get("encrypted"))', "False"),
    leaks_are_damage=("if code not in {0, _LEAKS_ONLY}:", "if code:"),
)
_IMAGE_LINKS = _of(
    "pytest_vmports/guests/image_links.py",
    "tests/hostile/test_images.py",
    a_data_file_is_not_seen=("bool(features & _DATA_FILE_BIT)", "False"),
    any_backing_file_is_taken=("and real not in named", "and not named and False"),
    links_lead_outside=("real = Path(os.path.realpath(behind))", "real = behind"),
    protocols_are_followed=('rb"[^/]*:"', 'rb"never:"'),
    formats_are_guessed=('if not names.backing_format and kind != "qcow2":', "if False:"),
)
_QEMU_WALLS = _of(
    "pytest_vmports/vm/walls.py",
    "tests/vm/test_qemu_walls.py",
    qemu_may_write_a_saved_memory=("(read if maps_read_only(", "(change if maps_read_only("),
    qemu_writes_its_whole_folder=("write, tuple(change)", "(place.workdir,), tuple(change)"),
    what_is_shared_to_read_is_written=("if not share.readonly)", ")"),
    who_writes_makes_what_runs_as_its_owner=("(seccomp.RIGHTS,) if write else ()", "()"),
    qemu_connects=('else ("connect",)', "else ()"),
)
_SHARES = _of(
    "pytest_vmports/vm/share.py",
    "tests/vm/test_share.py",
    what_is_shared_to_read_is_qemus_to_write=('",readonly=on" if share.readonly else ""', '""'),
    folders_of_vms_are_shared=(
        "for own in {Path(os.path.realpath(one)) for one in ours}:",
        "for own in ():",
    ),
)
_VIRTIOFS = _of(
    "pytest_vmports/vm/virtiofs.py",
    "tests/vm/test_virtiofs.py",
    what_is_shared_to_read_is_virtiofsds_to_write=(
        "if share.readonly else ((), (",
        "if False else ((), (",
    ),
    a_virtiofsd_without_walls=("if needed is not None:", "if True:"),
)
_CONSOLE = _of(
    "pytest_vmports/vm/console.py",
    "tests/vm/test_console.py",
    a_look_takes_its_begin_for_a_lines=("self._watch.begin_within()", "pass"),
    an_old_panic_is_this_guests=(
        "self._watch, self._new = Watch(), Follower(self.path)",
        "self._new = Follower(self.path)",
    ),
)
_GROWING = _of(
    "pytest_vmports/system/growing.py",
    "tests/hostile/test_growth.py",
    a_followed_file_is_read_whole=("size - self._read - self._most", "0 * size"),
    a_file_grows_on_the_disk=("if end > begin:", "if end < begin:"),
    a_files_end_is_dropped=("(told.st_size - limit // 2)", "told.st_size"),
)
_CLOUD_INIT_REPORTS = _of(
    "pytest_vmports/guests/cloud_init.py",
    "tests/hostile/test_growth.py",
    a_torn_report_hides_the_next=("text.rfind(_BEGIN, low, at)", "text.find(_BEGIN, low, at)"),
    a_report_is_remembered_without_end=("len(text) - begin > _LONGEST_REPORT", "not text"),
)
_LAST_WORDS = _of(
    "pytest_vmports/vm/last_words.py",
    "tests/vm/test_last_words.py",
    words_count_while_more_comes=("if size != self._size:", "if self._size < 0:"),
    words_count_behind_linux=("if row.before_linux and linux:", "if row.before_linux is None:"),
    a_menu_that_counts_down_is_stuck=("(?!executed automatically|Booting", "(?!Booting"),
)
_STILLNESS = _of(
    "pytest_vmports/vm/stillness.py",
    "tests/vm/test_stillness.py",
    one_dead_processor_is_enough=("all(one.dead for", "any(one.dead for"),
    a_processor_that_idles_is_dead=("self.halted and not self.interrupts", "self.halted"),
    uefi_that_works_is_stuck=("idle = self._by_bios and bool(seen)", "idle = bool(seen)"),
    a_loader_that_reads_is_stuck=("if idle and disks == self._disks else", "if idle else"),
)
_FILES = [
    *_of(
        "pytest_vmports/guests/file_kinds.py",
        "tests/guests/test_file_kinds.py",
        a_boot_sector_counts_for_nothing=("(use == DISK and any(", "(use == KERNEL and any("),
        an_initrd_is_whatever_is_compressed=('if kind.name == "gzip":', 'if kind.name == "gz":'),
    ),
    *_of(
        "pytest_vmports/guests/initrd.py",
        "tests/guests/test_file_kinds.py",
        busybox_is_not_found_behind_a_link=("links.get(folder, folder)", "folder"),
    ),
    *_of(
        "pytest_vmports/guests/initrd.py",
        "tests/hostile/test_floods.py",
        an_initrd_has_no_end=("self._bytes -= len(chunk)", "self._bytes -= 0"),
        parts_of_an_initrd_have_no_end=("self._parts -= 1", "self._parts -= 0"),
    ),
    *_of(
        "pytest_vmports/vm/qmp_thread.py",
        "tests/hostile/test_floods.py",
        events_have_no_end=("self._count += 1", "self._count += 0"),
        events_are_kept=(
            "            return False\n        if clock",
            "            return True\n        if clock",
        ),
    ),
    *_of(
        "pytest_vmports/system/confined.py",
        "tests/hostile/test_floods.py",
        any_number_of_descriptors=("min(one, most)", "one"),
    ),
]
_TOLERANT = [
    *_of(
        "pytest_vmports/vm/inside/first_boot.py",
        "tests/vm/test_cloud_init_verdicts.py",
        all_tolerate=("(tolerant or not found.errors)", "found.errors is not None"),
    ),
    *_of(
        "pytest_vmports/guests/image.py",
        "tests/vm/test_cloud_init_verdicts.py",
        identity_without_tolerance=('**({"tolerant": True} if disk.tolerant else {}),', ""),
    ),
]
_CRASHES = _of(
    "pytest_vmports/vm/crashes.py",
    "tests/vm/test_crashes.py",
    "tests/vm/test_console.py",
    a_reason_is_endless=('.removesuffix(" ]---").strip()[:_LONGEST_REASON]', ".strip()"),
    a_program_may_cry_bug=(r"(?:K[ACM]SAN|KFENCE): .* in \S+.*|BUG: sched", ".*|BUG: sched"),
    a_half_line_is_forgotten=("(self._partial + text)", "text"),
)
_CRASH_DUMP = _of(
    "pytest_vmports/vm/crash_dump.py",
    "tests/vm/test_crash_dump.py",
    a_dump_is_taken_twice=("self._tried = True", "pass"),
    a_cut_dump_passes=('raise OSError("QEMU\'s dump has no end")', "return"),
)
MUTANTS = [
    *_GDB, *_CARDS, *_BOARDS, *_WALLS, *_SHELL, *_COMMAND, *_READINESS, *_CONTROL, *_POWER, *_CLONE,
    *_STORE, *_STORED, *_TEMPLATE, *_IMAGES, *_FETCH, *_UNPACK, *_SAVED_IMAGE, *_ROOT_TREE, *_BOUNDED_TAR,
    *_DISK,
    *_TRAVEL,
    *_IMAGE_LINKS, *_QEMU_WALLS, *_SHARES, *_VIRTIOFS,
    *_CHANNEL, *_SAID, *_SPOKEN,
    *_CONSOLE, *_CRASHES, *_CRASH_DUMP, *_LAUNCH, *_PLAN, *_KINDS, *_WAYS, *_FAILURES,
    *_GROWING, *_CLOUD_INIT_REPORTS,
    *_ALLOCATOR, *_PRIVATE, *_WAIT_FOR,
    *_PATHS, *_PROBING, *_NAMES, *_FAILED_STARTS, *_BLAME, *_OUT,
    *_READERS, *_SMALL_FILE, *_KEPT_NOTE, *_TOOLS, *_SURROUNDINGS,
    *_LISTENING, *_HOPELESS, *_TPM, *_HOST_FILES, *_RAW_IMAGE, *_HANDSHAKE, *_LAST_WORDS, *_STILLNESS,
    *_FILES, *_TOLERANT,
]  # fmt: skip


# --- the runner ---------------------------------------------------------------------------------


def copy_of(root: Path, folder: Path) -> Path:
    """Return a copy of a checkout in ``folder``, as far as quick tests need it."""
    copy = folder.resolve() / "checkout"
    copy.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", ".*_cache")
    for name in _COPIED:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=ignored)
        elif source.exists():
            shutil.copy(source, copy / name)
    if (root / ".tools").exists():
        (copy / ".tools").symlink_to(root / ".tools")
    return copy


def python_in(copy: Path, *words: str) -> tuple[int | None, str]:
    """Return the exit status of a Python that sees the copy first, and what it wrote.

    The status is None when it had not ended in time.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    # Its children see the copy as well. No bytecode: two changes may fall into one second.
    env = {**own, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        [sys.executable, *words], cwd=copy, env=env, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            text, _ = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            return None, ""
    return process.returncode, text


def verify_import(copy: Path) -> None:
    """See that it is the copy's package that its tests import, and not the installed one.

    Raises:
        SystemExit: it is another.
    """
    look = "import sys, pytest_vmports; sys.stdout.write(pytest_vmports.__file__)"
    _, where = python_in(copy, "-c", look)
    if copy not in Path(where).parents:
        raise SystemExit(f"another package than the copy's is imported: {where}")


def passes(copy: Path, tests: tuple[str, ...]) -> tuple[bool, str]:
    """Tell whether these test files pass in a copy, and what pytest wrote.

    Raises:
        SystemExit: there are no tests.
    """
    quick = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-p", "no:randomly"]
    status, text = python_in(copy, "-m", "pytest", *quick, *tests)
    if status == _NO_TESTS:
        raise SystemExit(f"there are no tests in {', '.join(tests)}")
    return status == 0, text


def noticed(root: Path, mutant: Mutant) -> bool:
    """Tell whether a mutant's tests fail with it.

    Raises:
        StaleMutantError: it cannot be made any more.
    """
    text = changed(root, mutant)
    with tempfile.TemporaryDirectory(prefix="vmports-mutant-") as folder:
        copy = copy_of(root, Path(folder))
        (copy / mutant.file).write_text(text)
        return not passes(copy, mutant.tests)[0]


def run(root: Path, mutants: list[Mutant]) -> int:
    """Try each, say what came of it, and return the exit status."""
    for tests in sorted({mutant.tests for mutant in mutants}):
        with tempfile.TemporaryDirectory(prefix="vmports-mutant-") as folder:
            copy = copy_of(root, Path(folder))
            verify_import(copy)
            good, text = passes(copy, tests)
        if not good:
            print(f"{text}\nunchanged, {' '.join(tests)} does not pass: nothing can be told by it")
            return 2
    found, stale = 0, 0
    for mutant in mutants:
        begun = time.monotonic()
        try:
            seen = noticed(root, mutant)
        except StaleMutantError as error:
            stale += 1
            print(f"STALE        {error}", flush=True)
            continue
        found += seen
        said = "noticed     " if seen else "NOT NOTICED "
        print(f"{said} {mutant.name} ({time.monotonic() - begun:.0f} s)", flush=True)
    share = found / len(mutants)
    print(f"{found} of {len(mutants)} noticed, {share:.0%}; {stale} cannot be made any more")
    return 1 if stale or share < ENOUGH else 0


def main(words: list[str], root: Path = ROOT, mutants: list[Mutant] = MUTANTS) -> int:
    """Run the command line ``words`` and return the exit status."""
    parser = argparse.ArgumentParser(description="Try the suite on single changes to the code.")
    parser.add_argument("--only", action="append", metavar="NAME", help="this one; may be repeated")
    parser.add_argument("--list", action="store_true", help="name them and try none")
    given = parser.parse_args(words)
    chosen = [mutant for mutant in mutants if not given.only or mutant.name in given.only]
    if given.only and (unknown := set(given.only) - {mutant.name for mutant in chosen}):
        parser.error(f"there is no {', '.join(sorted(unknown))}; --list names them")
    if given.list:
        for mutant in chosen:
            print(f"{mutant.name:40} {mutant.file}  {' '.join(mutant.tests)}")
        return 0
    return run(root, chosen)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
