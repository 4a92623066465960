"""What is put on a test's report of its VMs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_vmports.report import riders, workers
from pytest_vmports.report.recorder import evidence_of, forget, known
from pytest_vmports.report.shielded import shield
from pytest_vmports.settings import options
from pytest_vmports.system import patience
from pytest_vmports.system.mishaps import noting, printable
from pytest_vmports.system.surroundings import restored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pytest

    from pytest_vmports.pool.keeper import Keeper
    from pytest_vmports.report.evidence import Evidence
    from pytest_vmports.report.recorder import Recorder

# What all that is asked of VMs for one report may take; files are written as long as it takes.
_SECONDS = 6.0
# What allure-pytest registers when it is told where to write, and then only.
_ALLURE = "allure_listener"


@restored()
def complete(
    item: pytest.Item,
    report: pytest.TestReport,
    recorder: Recorder,
    keeper: Keeper | None,
    *,
    facts: bool,
) -> None:
    """Put on a report what is known of the test's VMs; what goes wrong with that is told there too.

    Args:
        item: the test.
        report: of one of its phases.
        recorder: has taken note of VMs and mishaps.
        keeper: has kept VMs.
        facts: the table or the picture of the whole run wants some.
    """
    note = recorder.note
    with noting("evidence failed: the guest's words stay as they are", note):
        if known(item) or _may_use_any(item) or any(one.running for one in recorder.made):
            shield(report)
    with noting("evidence failed: all of it", note), patience.at_most(_SECONDS):
        _add_sections(item, report, recorder)
    with noting("evidence failed: how to reach what was kept", note):
        if keeper is not None:
            _add_kept(report, keeper)
    with noting("evidence failed: facts for the whole run", note):
        if facts:
            _add_facts(item, report)
    with noting("evidence failed: letting go of it", note):
        if report.when == "teardown":
            forget(item)
    _add_mishaps(report, recorder, workers.host_of(item.config))


def _add_sections(item: pytest.Item, report: pytest.TestReport, recorder: Recorder) -> None:
    """Give a failing report what is known of the test's VMs, and of others that it may use."""
    made = recorder.made if _may_use_any(item) else []
    if not report.failed or not (made or known(item)):
        return
    note, evidence = recorder.note, evidence_of(item)
    evidence.shared = [one for one in made if one.running and one not in evidence.machines]
    for machine in evidence.shown():
        machine.note_failing()
    evident = list(evidence.sections(verbosity=item.config.getoption("verbose", 0), note=note))
    # Without what pytest writes before each line of an error.
    said = re.sub(r"^E +", "", str(report.longrepr), flags=re.MULTILINE)
    verbose = item.config.getoption("verbose", 0) > 0
    for title, text in evident:
        if verbose or not (title.endswith("console") and text in said):
            _add(report, title, text)
    folders: list[Path] = []
    with noting("artifact failed: all of them", note):
        for text in _artifacts(item, evidence, note, folders):
            _add(report, "VM: artifacts", text)
    with noting("artifact failed: attachments of the Allure report", note):
        if item.config.pluginmanager.has_plugin(_ALLURE):
            from pytest_vmports.report.to_allure import attach

            attach([(printable(one), printable(text)) for one, text in evident], folders)


def _may_use_any(item: pytest.Item) -> bool:
    """Whether a fixture of a wider scope may have made VMs for a test long before it."""
    return "vm_factory" in getattr(item, "fixturenames", ())


def _add(report: pytest.TestReport, title: str, text: str) -> None:
    # As part of the failure itself it also reaches JUnit's XML, which knows no sections of others.
    add = getattr(report.longrepr, "addsection", None)
    if add is None:
        report.sections.append((printable(title), printable(text)))
    else:
        add(printable(title), printable(text))


def _add_mishaps(report: pytest.TestReport, recorder: Recorder, host: str) -> None:
    """Tell what went wrong beside the tests since the last report: in this one, if anybody sees it.

    That of a test that did not fail is told at the run's end.
    """
    mishaps, recorder.mishaps = recorder.mishaps, []
    later = [] if report.failed else mishaps
    for mishap in mishaps if report.failed else ():
        with noting(mishap, later.append):
            _add(report, f"VM: {mishap.partition(':')[0]}", mishap)
    if later:
        riders.put(report, riders.MISHAPS, [f"{host}: {it}" if host else it for it in later])


def _artifacts(
    item: pytest.Item, evidence: Evidence, note: Callable[[str], None], folders: list[Path]
) -> Iterator[str]:
    """Write the files of each VM, and yield where they are, or why there are none.

    Args:
        item: the test.
        evidence: has its VMs.
        note: is told of what cannot be written.
        folders: is given those that are written.
    """
    (wanted,) = options.values(item.config, "artifacts")
    if wanted == "no":
        return
    from pytest_vmports.report.artifacts import base_of, write

    root, host = item.config.rootpath, workers.host_of(item.config)
    # A far worker's go to the controller's folder, which need not be one here.
    base = (base_of(item.config, None) if host else None) or base_of(item.config, wanted)
    if base is None:
        yield (
            "not written: pytest's own folder for them went with its plugin tmpdir; "
            "--vmports-artifacts=DIR names another"
        )
        return
    for number, machine in enumerate(evidence.shown(), 1):
        with noting(f"artifact failed: all below {base} (see --vmports-artifacts)", note):
            folder = write(machine, base, item.nodeid, root, number, note=note)
            folders.append(folder)
            if host:
                from pytest_vmports.report.far import send_home

                yield send_home(item.config, folder)
            else:
                yield str(folder)


def _add_facts(item: pytest.Item, report: pytest.TestReport) -> None:
    """Put on a teardown's report what the table of the whole run needs."""
    evidence = known(item)
    if evidence is not None and report.when == "teardown":
        from pytest_vmports.report.summary import facts_of

        host = workers.host_of(item.config)
        riders.put(report, riders.FACTS, {**facts_of(evidence), **({"host": host} if host else {})})


def _add_kept(report: pytest.TestReport, keeper: Keeper) -> None:
    """Put on a report how to reach the VMs that were kept since the last one."""
    if fresh := keeper.take_fresh():
        riders.put(report, riders.KEPT, fresh)
