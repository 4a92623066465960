"""The table of what a kernel says when it fails, and how it is found in a console's text. Pure."""

from __future__ import annotations

import enum
import functools
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# What a kernel writes before each line of its own (source: its printk.c): the time, and the task or
# processor where it is told to. Behind a program's half line, as a prompt, the time tells.
_CALLER = r"\[ *[TC]\d+\]"
_STAMP = rf"\[ *\d+\.\d+\](?:{_CALLER})? "
# A kernel that stays as it is says its panic twice, the second time as an end.
_END = r"(?:---\[ end )?"
_WATCHDOG = r"(?:(?:NMI )?watchdog: )?(?:CPU\d+: )?"
_CONTROL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]?[0-~])")
_LONGEST_REASON = 500
# Of a kernel's one line (source: LOG_LINE_MAX in its printk.c), and more.
_LONGEST_TEXT = 1 << 10
_STAMPS = re.compile(_STAMP)
_LINE_END = re.compile(r"\r+\n?")
# Of a line that has no end yet, which is read again at each look.
_LONGEST_LINE = 1 << 13
# Of each weight: a kernel that is made to warn without end says nothing new.
_MOST_FOUND = 50
_LONGEST_LOOK = 1 << 20
# Of a report's passage: a trace is some forty lines, and an oops and its panic have one each.
_FIRST_LINES, _LAST_LINES, _LINES_AFTER = 70, 50, 30
_CUT_HERE = "[ cut here ]"
_CUT_BEFORE = 3


class Weight(enum.Enum):
    """What a kernel's words mean for a test: its guest is dead, or failed, or it is only said."""

    PANIC = "panic"
    FAILS = "fails"
    SAID = "said"


@dataclass(frozen=True)
class Kind:
    """One row of the table.

    Attributes:
        name: what to call it.
        weight: what it means for the test.
        says: what happened, after "the guest's kernel".
        words: the literal beginning of each text that may be one, for a first quick look.
        sure: a pattern that only a kernel writes: it counts at the begin of a line too, as of a
            kernel that writes no time.
        stamped: a pattern that programs may write as well: it counts behind a kernel's time alone.
        advice: what may help, as a sentence.
    """

    name: str
    weight: Weight
    says: str
    words: tuple[str, ...]
    sure: str | None = None
    stamped: str | None = None
    advice: str = ""

    def search(self, line: str, begins: Sequence[int]) -> re.Match[str] | None:
        """Return where a line says this, with the text as its group ``said``.

        Args:
            line: the line.
            begins: where a kernel's text may begin in it: at its own begin, 0, and behind times.
        """
        for pattern, at in ((self.sure, begins), (self.stamped, begins[1:])):
            if pattern is None:
                continue
            compiled = _compiled(pattern)
            for begin in at:
                # Bounded, so that a line of nothing but begins costs what its length does.
                found = compiled.match(line, begin, begin + _LONGEST_TEXT)
                if found is not None:
                    return found
        return None


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?:{_CALLER} )?{_END}(?P<said>{pattern})")


_PANIC_WORDS = "Kernel panic - not syncing:"
_ADDRESS = r"[0-9a-f]{8,16}"

# The first row that a line fits is the one. Texts: the kernel's own source, 4.19 to 6.18.
KINDS = (
    Kind(
        "panic", Weight.PANIC, "panicked", (_PANIC_WORDS,), sure=rf"{_PANIC_WORDS}(?P<why>.*)",
    ),
    Kind(
        "stall", Weight.FAILS, "found a processor that is stuck", ("LOCKUP", "lockup"),
        sure=rf"{_WATCHDOG}(?:BUG: soft lockup - CPU#\d+ |Watchdog detected hard LOCKUP on cpu )"
             r"\S.*",
        stamped=r"BUG: workqueue lockup.*",
        advice="a host that lets the VM wait for long makes those too: run fewer tests at once",
    ),
    Kind(
        "oops", Weight.FAILS, "has a fault of its own (an oops)",
        ("BUG: ", "Oops", "Unable to handle kernel", "[#", "SError Interrupt", "PANIC: "),
        sure=(
            rf"BUG: (?:kernel NULL pointer dereference, address: {_ADDRESS}"
            rf"|unable to handle .* (?:at|for address:) {_ADDRESS}).*"
            rf"|Unable to handle kernel .* at virtual address {_ADDRESS}.*"
            r"|(?:Internal error: )?Oops(?: - [\w ]+)?: (?:Oops: )?[0-9a-f]{4,16} \[#\d+\].*"
            # Traps by their names: "general protection fault, maybe for address ...: 0000 [#1]".
            r"|(?:Oops: |Internal error: )?[A-Za-z][\w ,()/-]*(?: 0x[0-9a-f]+)?: "
            r"[0-9a-f]{4,16} \[#\d+\].*"
            r"|(?:traps: )?PANIC: double fault, error_code: 0x.*"
            r"|SError Interrupt on CPU\d+, code .*"
        ),
    ),
    Kind(
        "assertion", Weight.FAILS, "failed an assertion of its own", ("kernel BUG at", "XFS"),
        sure=r"kernel BUG at \S+:\d+!.*|XFS(?: \(\S+\))?: Assertion failed: .*",
    ),
    Kind(
        "bug", Weight.FAILS, "found a fault of its own", ("BUG: ",),
        sure=(
            r"BUG: (?:K[ACM]SAN|KFENCE): .* in \S+.*|BUG: scheduling while atomic: .+/\d+/0x.*"
            r"|BUG: sleeping function called from invalid context at \S+:\d+.*"
            r"|BUG: Bad (?:page state|page map|rss-counter state) (?:in process |mm:).*"
            r"|BUG: (?:spinlock|rwlock) .* on CPU#\d+, .*"
            r"|BUG: using \w+\(\) in preemptible \[[0-9a-f]+\] code: .*"
        ),
        stamped=r"BUG: .*",
    ),
    Kind(
        "hung task", Weight.FAILS, "found a task that hangs", ("INFO: task ",),
        sure=r"INFO: task .+:\d+ blocked (?:[\w/ ]+ )?for more than \d+ seconds\..*",
    ),
    Kind(
        "out of memory", Weight.FAILS, "ran out of memory and killed a process",
        ("Out of memory",),
        sure=r"Out of memory(?: \(oom_kill_allocating_task\))?: "
             r"Kill(?:ed)? process \d+ \(.*",
        advice="give the guest more memory",
    ),
    Kind(
        "out of a group's memory", Weight.SAID, "killed a process that used up its group's memory",
        ("Memory cgroup out of memory",),
        sure=r"Memory cgroup out of memory: Kill(?:ed)? process \d+ \(.*",
    ),
    Kind(
        "warning", Weight.SAID, "warned of a state that it takes for a fault",
        ("WARNING: ", "UBSAN: "),
        sure=r"WARNING: (?:CPU: \d+ PID: \d+ at .*|\S+:\d+ at .*, CPU#\d+: .*)",
        stamped=r"(?:WARNING|UBSAN): .*",
    ),
    Kind(
        "stall", Weight.SAID, "missed a processor for a while", ("INFO: rcu",),
        sure=r"(?:rcu: )?INFO: rcu_\w+ (?:self-)?detected (?:expedited )?stalls? on CPU.*",
    ),
)  # fmt: skip
_MAY_SAY = re.compile("|".join(re.escape(word) for kind in KINDS for word in kind.words))
# Begun and cut: more is on its way.
_CUT_WORDS = (
    _PANIC_WORDS, "BUG: ", "Oops: ", "kernel BUG at ", "Internal error: Oops", "Out of memory: Kil",
    "Unable to handle kernel ", "INFO: task ", "general protection fault",
)  # fmt: skip
_LEAST_BEGUN = 4


@dataclass(frozen=True)
class Crash:
    """What a kernel said.

    Attributes:
        kind: the row of the table.
        said: its words; of a panic the reason alone.
    """

    kind: Kind
    said: str

    def __str__(self) -> str:
        return f"the guest's kernel {self.kind.says}: {self.said}"


@dataclass
class Watch:
    """Reads a console as it is written, and remembers what the kernel said of its failing."""

    _sure: list[Crash] = field(default_factory=list)
    _counts: dict[Weight, int] = field(default_factory=dict)
    _partial: str = ""
    _found_in_partial: list[Crash] = field(default_factory=list)

    def feed(self, text: str) -> None:
        """Read on; a line that is being written is read as far as it goes."""
        whole, line_end, rest = (self._partial + text).rpartition("\n")
        self._remember(crashes_in(whole + line_end))
        if len(rest) > _LONGEST_LINE:
            self._remember(crashes_in(rest))
            rest = f".{rest[-_LONGEST_LINE:]}"  # a cut one's begin is none of a line
        self._partial = rest
        self._found_in_partial = crashes_in(rest)

    def _remember(self, found: Iterable[Crash]) -> None:
        for one in found:
            count = self._counts.get(one.kind.weight, 0)
            if count < _MOST_FOUND:
                self._sure.append(one)
                self._counts[one.kind.weight] = count + 1

    def begin_within(self) -> None:
        """What comes next does not begin a line, for something before it is left out."""
        self.feed("\n")
        self._partial = "."

    @property
    def found(self) -> list[Crash]:
        """All that was said, in order."""
        return self._sure + self._found_in_partial

    @property
    def begun(self) -> bool:
        """Whether the last line is cut within words of the table: more is on its way."""
        sizes = range(_LEAST_BEGUN, max(map(len, _CUT_WORDS)) + 1)
        return not self._found_in_partial and any(
            self._partial.endswith(words[:size])
            for words in _CUT_WORDS for size in sizes if size < len(words)
        )  # fmt: skip


def clean(text: str) -> str:
    """Return a text without what would move a terminal's cursor or colour it."""
    text = _LINE_END.sub(_new_lines, _CONTROL.sub("", text))
    return "".join(c for c in text if c.isprintable() or c in "\n\t")


def _new_lines(ends: re.Match[str]) -> str:
    """A line may end with several CRs before its LF; without one, each ends a line."""
    return "\n" if ends[0].endswith("\n") else "\n" * len(ends[0])


def crashes_in(text: str) -> list[Crash]:
    """Return what a kernel says in these lines of its failing."""
    if _MAY_SAY.search(text) is None:
        return []
    lines = clean(text).split("\n")
    return [found for line in lines if (found := _crash_in(line)) is not None]


def passage(text: str) -> str:
    """Return a console's lines from a kernel's first words of its failing to the last; bounded."""
    lines = clean(text[-_LONGEST_LOOK:]).splitlines()
    told = [number for number, line in enumerate(lines) if _crash_in(line) is not None]
    if not told:
        return ""
    begin, end = told[0], min(len(lines), told[-1] + _LINES_AFTER)
    above = lines[max(0, begin - _CUT_BEFORE) : begin]
    begin -= next((back for back, line in enumerate(above[::-1], 1) if _CUT_HERE in line), 0)
    ends = [number for number in range(told[-1], end) if "---[ end " in lines[number]]
    shown = lines[begin : ends[0] + 1 if ends else end]
    left_out = len(shown) - _FIRST_LINES - _LAST_LINES
    if left_out > 0:
        shown[_FIRST_LINES:-_LAST_LINES] = [f"({left_out} lines left out)"]
    return "\n".join(line[:_LONGEST_REASON] for line in shown)


def _crash_in(line: str) -> Crash | None:
    if _MAY_SAY.search(line) is None:
        return None
    kinds = [kind for kind in KINDS if any(word in line for word in kind.words)]
    begins = [0, *(stamp.end() for stamp in _STAMPS.finditer(line))]
    for kind in kinds:
        if (found := kind.search(line, begins)) is not None:
            said = found["why"] if kind.weight is Weight.PANIC else found["said"]
            return Crash(kind, said.removesuffix(" ]---").strip()[:_LONGEST_REASON])
    return None
