"""What `make test-matrix` tries: Pythons, pytests, xdists, and the plugins that people have.

Every entry is a row, or a cell, of docs/compatibility.md. A case is a small project of a user's,
in `projects/` under the case's name, and what has to come of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
# Debian's releases by the Python that they come with, for where no such Python is installed.
SUITES = {"3.13": "trixie", "3.14": "sid"}
NEWEST = "newest"
PYTESTS = {"8.0": "pytest==8.0.*", NEWEST: "pytest"}
XDISTS = {"3.5": "pytest-xdist==3.5.*", NEWEST: "pytest-xdist"}
# Of ours; with the others' the core needs nothing more.
EXTRAS = "alpine,cloud,images"


@dataclass(frozen=True)
class Run:
    """One run of pytest in a case's project, and what has to come of it.

    Attributes:
        words: of pytest's command line.
        passed: tests that pass, as JUnit's XML counts them; as are failed and errors.
        failed: tests that fail.
        errors: tests that end by an error of a fixture's.
        shows: regular expressions that pytest's output has, or the terminal at the run's end.
        hides: those that it has not.
        files: what files that the run leaves have, by a pattern of their names.
        terminal: the run has a terminal.
        aborted: pytest's process ends before it counts anything.
    """

    words: tuple[str, ...] = ()
    passed: int = 0
    failed: int = 0
    errors: int = 0
    shows: tuple[str, ...] = ()
    hides: tuple[str, ...] = ()
    files: dict[str, tuple[str, ...]] = field(default_factory=dict)
    terminal: bool = False
    aborted: bool = False


@dataclass(frozen=True)
class Case:
    """A plugin, tool or library beside ours.

    Attributes:
        packages: what pip installs beside ours; the first is the one that the row names.
        tried: what is tried, for the table.
        runs: one after the other in the same folder.
        remark: what a user has to know, for the table.
        debian: its VMs are Debian 12 with sshd, nginx and Python, and not the bundled guest.
    """

    packages: tuple[str, ...]
    tried: str
    runs: tuple[Run, ...]
    remark: str = ""
    debian: bool = False


# What a failing test shows of its VM.
SECTIONS = (r"VM: time line", r"hello from the guest", r"VM: artifacts")

CORE = Run(
    ("-n", "2", "--vmports-report"), passed=9, failed=1, shows=(*SECTIONS, r"1 failed, 9 passed"),
)  # fmt: skip

CASES = {
    "randomly": Case(
        ("pytest-randomly",),
        "tests in any order, by the same seed in two workers; no host port comes of a seed",
        (
            Run(("-p", "randomly", "--randomly-seed=1"), passed=4),
            Run(("--randomly-seed=1", "-n", "2", "--dist", "load"), passed=4),
        ),
    ),
    "rerunfailures": Case(
        ("pytest-rerunfailures",),
        "a test that is run again has a fresh VM; its first failure left artifacts",
        (
            Run(
                ("--reruns", "1", "--vmports-artifacts=kept"),
                passed=1,
                failed=1,
                shows=(*SECTIONS, r"1 failed, 1 passed, 2 rerun"),
                files={
                    "kept/*flaky*/console.log": ("hello from the guest",),
                    "kept/*always*/vm.json": ("qemu",),
                },
            ),
            Run(("--reruns", "1", "-n", "2", "-k", "always"), failed=1, shows=(r"1 rerun",)),
        ),
    ),
    "timeout": Case(
        ("pytest-timeout",),
        "a test that hangs in a VM is ended, with the console in its report; the VM is gone",
        (
            Run(passed=1, failed=1, shows=(*SECTIONS, r"Timeout")),
            Run(("--timeout-method=thread", "-k", "hangs"), aborted=True, shows=(r"Timeout",)),
        ),
        remark="`--timeout-method=thread` ends pytest's whole process: the VM goes with it, "
        "and nobody writes a report",
    ),
    "asyncio": Case(
        ("pytest-asyncio",),
        "async tests and fixtures that use a VM, and VMs made within a running loop",
        (Run(passed=3),),
        remark="`vm.run` and others block: `asyncio.to_thread(vm.run, …)` lets the loop go on",
    ),
    "anyio": Case(("anyio", "trio"), "the same by anyio, on asyncio and on trio", (Run(passed=4),)),
    "cov": Case(
        ("pytest-cov",),
        "what tests with VMs run is counted, by two workers too",
        (
            Run(
                ("-n", "2", "--cov=app", "--cov-report=xml"),
                passed=2,
                files={"coverage.xml": (r'filename="app.py"[^>]* line-rate="1"',)},
            ),
        ),
    ),
    "html": Case(
        ("pytest-html",),
        "the sections on a failing test's VM stand in the page",
        (
            Run(
                ("--html=page.html", "--self-contained-html"),
                failed=1,
                files={"page.html": (*SECTIONS, r"port 8080: answered")},
            ),
        ),
    ),
    "allure": Case(
        ("allure-pytest",),
        "a failing test has its VM's sections and artifacts attached, by two workers too",
        (
            Run(
                ("--alluredir=results", "-n", "2"),
                passed=1,
                failed=1,
                files={
                    "results/*-result.json": (
                        r'"VM: time line"',
                        r'"console\.log"',
                        r'"qemu\.sh"',
                        r'"vm\.json"',
                    ),
                    "results/*-attachment.txt": (r"hello from the guest",),
                },
            ),
        ),
    ),
    "bdd": Case(("pytest-bdd",), "steps that use a scenario's VM, in an outline", (Run(passed=2),)),
    "subtests": Case(
        ("pytest-subtests", "pytest<9"),
        "subtests of one test share its VM; one that fails shows it",
        (Run(failed=1, passed=3, shows=(*SECTIONS, r"1 failed, 1 passed, 2 subtests passed")),),
        remark="with pytest 8; pytest 9 has subtests of its own: the next row",
    ),
    "subtests-of-pytest": Case(
        ("pytest>=9",),
        "the same by pytest's own fixture `subtests`",
        (Run(failed=2, passed=2, shows=(*SECTIONS, "contains 1 failed subtest")),),
    ),
    "split": Case(
        ("pytest-split",),
        "durations are stored; each of two groups runs its part, by durations",
        (
            Run(
                ("--store-durations", "--durations-path=stored"),
                passed=4,
                files={"stored": (r"(?s)test_part.*test_part.*test_part.*test_part",)},
            ),
            Run(("--splits", "2", "--group", "1"), passed=1),
            Run(("--splits", "2", "--group", "2"), passed=3),
        ),
        remark="a VM's start counts for the test that waits for it: the first of its kind boots",
    ),
    "sugar": Case(
        ("pytest-sugar", "pyte"),
        "on a terminal its lines and ours stand apart; sections are shown",
        (
            Run(
                passed=1,
                failed=1,
                terminal=True,
                shows=(*SECTIONS, r"(?m)^ test_with_sugar.py ✓ +50%"),
                hides=("vmports: booting",),
            ),
        ),
    ),
    "rich": Case(
        ("pytest-rich", "pyte"),
        "on a terminal its progress and ours stand apart; sections are shown",
        (
            Run(
                ("--rich",),
                passed=1,
                failed=1,
                terminal=True,
                shows=(*SECTIONS, r"(?m)^. \[100%\] test_with_rich.py"),
                hides=("vmports: booting",),
            ),
        ),
    ),
    "base-url": Case(
        ("pytest-base-url",),
        "`base_url` is that of a VM for all tests, and is verified",
        (Run(("--verify-base-url",), passed=2),),
    ),
    "socket": Case(
        ("pytest-socket",),
        "VMs work while other hosts than 127.0.0.1 are forbidden, or sockets altogether",
        (
            Run(("--disable-socket", "--allow-hosts=127.0.0.1", "-k", "reaches"), passed=2),
            Run(("--allow-hosts=127.0.0.1", "-n", "2", "-k", "reaches"), passed=2),
            Run(("--disable-socket", "-k", "without"), passed=1),
        ),
        remark="a test's own connections, by `vm.connect` too, want `--allow-hosts=127.0.0.1`",
    ),
    "httpx": Case(
        ("httpx", "pytest-asyncio"),
        "its clients, the async one too, with a guest's server",
        (Run(passed=2),),
    ),
    "testinfra": Case(
        ("pytest-testinfra",),
        "a host by `ssh://vm` and `vm.ssh_config`",
        (Run(passed=1),),
        debian=True,
    ),
    "paramiko": Case(
        ("paramiko",),
        "a command and a file by SFTP, with the host, port and key of `vm.ssh_config`",
        (Run(passed=1),),
        debian=True,
    ),
    "fabric": Case(
        ("fabric",),
        "a command and a file, with `vm.ssh_config`",
        (Run(passed=1),),
        remark="`in_stream=False`: below pytest it has no standard input to pass on",
        debian=True,
    ),
    "asyncssh": Case(
        ("asyncssh", "pytest-asyncio"),
        "a command and a forwarded port, with `vm.ssh_config`",
        (Run(passed=1),),
        debian=True,
    ),
    "ansible": Case(
        ("ansible-core",),
        "a playbook that changes a VM, and changes nothing the second time",
        (Run(passed=1),),
        debian=True,
    ),
    "molecule": Case(
        ("molecule", "ansible-core"),
        "converge, idempotence and verify of a scenario with the driver `default`",
        (Run(passed=1),),
        debian=True,
    ),
}
