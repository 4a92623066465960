"""Which kinds of VMs did not start in this run, so that no test waits for the same failure again.

Kept as small files in a folder that all workers of the run share: ``KEY.failed`` says which test
met the failure first and what it was, ``KEY.again`` that another try has ended likewise, and
``KEY.ready`` that a VM of this kind has been ready: what fails later is that one VM's, and not
remembered.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_vmports import errors
from pytest_vmports.errors import ForwardError, MachineError
from pytest_vmports.leases.record import current_test
from pytest_vmports.pool.blame import host_may_be
from pytest_vmports.system import clock
from pytest_vmports.system.mishaps import noting, plain
from pytest_vmports.system.records import Record, read_record
from pytest_vmports.vm.plan import key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_vmports.vm.plan import Plan


class _Try(Record):
    """The test that met a failure."""

    test: str


class _First(_Try):
    """The first one, when it began to know, whether the host may be at fault, and the error."""

    at: float
    host: bool
    kind: str
    message: str
    fields: dict[str, Any]


# An error may have its guest's whole console among its fields.
_LARGEST = 1 << 30
_Shape = TypeVar("_Shape", bound=Record)


class FailedStarts:
    """What failed to start in this run.

    Args:
        folder: of all processes of the run.
        tell: writes a line to the terminal.
    """

    def __init__(self, folder: Path, tell: Callable[[str], None]) -> None:
        self._folder = folder
        self._tell = tell
        self._ready: set[str] = set()
        self._began = 0.0

    @contextlib.contextmanager
    def minded(self, plan: Plan, *, cloned: bool) -> Iterator[None]:
        """Start a VM in the ``with`` block, and remember whether that went well.

        Args:
            plan: of the VM, with its forwards.
            cloned: it is started from a template where it can have one.

        Raises:
            MachineError: see `check`.
        """
        key = start_key(plan, cloned=cloned)
        self._check(key)
        try:
            yield
        except MachineError as error:
            with noting("vmports: a failed start is not remembered", self._tell):
                self._note(key, error)
            raise
        with noting("vmports: that a VM was ready is not remembered", self._tell):
            self._note_ready(key)

    def check(self, plan: Plan, *, cloned: bool) -> None:
        """Raise what a VM of this kind has failed with in another test of this run, or begin now.

        The test that met it first may try again: it is run once more on purpose. Where the host
        may have been at fault, one other test tries too.

        Raises:
            MachineError: the same, and which test met it first.
        """
        self._check(start_key(plan, cloned=cloned))

    def _check(self, key: str) -> None:
        # Whoever has waited for the one that failed tries after it, and is the second try.
        self._began = clock.now()
        if key in self._ready or self._path(key, "ready").exists():
            return
        first, again = self._read(key, "failed", _First), self._read(key, "again", _Try)
        if first is None or first.test == current_test() or not current_test():
            return
        if again is not None or not first.host:
            raise _rebuilt(first, again)

    def _note(self, key: str, error: MachineError) -> None:
        # Another VM gets another port; and what was raised from here is known already.
        if isinstance(error, ForwardError) or "met_first" in error.fields or not current_test():
            return
        facts = {
            "test": current_test(), "at": clock.now(), "host": host_may_be(error),
            "kind": type(error).__name__, "message": str(error), "fields": plain(error.fields),
        }  # fmt: skip
        if self._write(key, "failed", facts):
            return
        first = self._read(key, "failed", _First)
        # Workers that start at one time meet the same busy moment: that is no second try.
        if first is not None and self._began > first.at:
            self._write(key, "again", {"test": facts["test"]})

    def _note_ready(self, key: str) -> None:
        if key not in self._ready:
            self._ready.add(key)
            self._write(key, "ready", {})

    def _read(self, key: str, what: str, shape: type[_Shape]) -> _Shape | None:
        try:
            return read_record(self._path(key, what), shape, _LARGEST)
        except (OSError, ValueError):  # not there; or not to be read, and then the VM is tried
            return None

    def _write(self, key: str, what: str, facts: dict[str, Any]) -> bool:
        """Write a file unless it is there; return whether it was written."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        try:
            with self._path(key, what).open("x", encoding="utf-8") as file:
                file.write(json.dumps(facts))  # in ASCII, whatever the guest said
        except FileExistsError:
            return False
        return True

    def _path(self, key: str, what: str) -> Path:
        return self._folder / f"{key}.{what}"


def start_key(plan: Plan, *, cloned: bool) -> str:
    """Return a name for all that may decide how a start ends, host ports apart.

    Args:
        plan: of the VM, with its forwards.
        cloned: it is started from a template where it can have one.
    """
    ports = sorted(f"{port.internal}/{port.protocol}" for port in plan.wanted)
    return key_of(
        {
            "vm": plan.standby_key, "ports": ports,
            "wait_for": str(plan.wait_for), "boot_timeout": plan.boot_timeout,
            "may_crash": plan.may_crash, "cloned": cloned,
        }
    )  # fmt: skip


def _rebuilt(first: _First, again: _Try | None) -> MachineError:
    kind = getattr(errors, first.kind, MachineError)
    others = "" if again is None or again.test == first.test else f", then by {again.test}"
    said = f"(met first by {first.test}{others}, not tried again in this run)"
    fields = {**first.fields, "met_first": first.test}
    error = errors.rebuild(kind, f"{first.message}\n{said}", fields)
    assert isinstance(error, MachineError)
    return error
