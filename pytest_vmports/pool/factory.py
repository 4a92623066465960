"""VMs made by the test itself, as many as it likes."""

from __future__ import annotations

import contextlib
import itertools
import sys
import warnings
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from pytest_vmports.errors import NotEnteredError, NotEnteredWarning, SettingError
from pytest_vmports.guests.guest import Guest
from pytest_vmports.pool.foresight import Habits
from pytest_vmports.settings import options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import pytest
    from typing_extensions import Unpack

    from pytest_vmports.leases import LeaseInfo
    from pytest_vmports.pool.handle import VM
    from pytest_vmports.pool.pool import Pool
    from pytest_vmports.settings.keywords import Port, SettingKeywords
    from pytest_vmports.settings.options import Settings
    from pytest_vmports.vm.machine import Machine

_WHERE = "vm_factory"


class _NoVm:
    """What people take for a VM, and is none: whoever uses it as one is told so."""

    _what: ClassVar[str]
    _told = False

    def _refusal(self, used: str) -> NotEnteredError:
        self._told = True
        return NotEnteredError(used=used, what=self._what)

    def __getattr__(self, name: str) -> NoReturn:
        # pytest, copy and others look for names with underscores in any object.
        if name.startswith("_"):
            raise AttributeError(name)
        raise self._refusal(f".{name}")

    def __getitem__(self, port: Any) -> NoReturn:
        raise self._refusal(f"[{port!r}]")

    def __iter__(self) -> Iterator[NoReturn]:
        raise self._refusal("iteration")

    def __len__(self) -> int:
        raise self._refusal("len()")

    def __bool__(self) -> bool:
        return True


class VmToBe(_NoVm, contextlib.AbstractContextManager["VM", "bool | None"]):
    """A VM that the ``with`` statement makes and ends, each time anew.

    Args:
        make: returns what does both.
        where: the line that asked for it.
    """

    _what = "what vm_factory(…) returns"

    def __init__(
        self, make: Callable[[], contextlib.AbstractContextManager[VM, bool | None]], where: str
    ) -> None:
        self._make = make
        self._where = where
        self._entered: list[contextlib.AbstractContextManager[VM, bool | None]] = []

    def __enter__(self) -> VM:
        self._told = True
        made = self._make()
        vm = made.__enter__()
        self._entered.append(made)
        return vm

    def __exit__(self, *raised: Any) -> bool | None:  # noqa: PYI036 - passed on
        return self._entered.pop().__exit__(*raised)

    def __del__(self) -> None:
        # A test that forgot the block would pass, and have seen no VM.
        if not self._told:
            warnings.warn(
                f"{self._what} at {self._where} has made no VM: `with vm_factory(…) as vm:` does",
                NotEnteredWarning, stacklevel=2,
            )  # fmt: skip


class VmFactory(_NoVm):
    """Makes VMs; what the fixture ``vm_factory`` returns.

    Args:
        config: pytest's.
        pool: makes them.
        guest: what they boot unless told otherwise; None means the setting.
        observe: told of every machine before it starts.
        on_wait: told the holder of a fixed port that is waited for.
        running: returns the test that runs; None where there is none.
        coming: returns what the tests after one need, given what a user of this factory does.
    """

    _what = "vm_factory itself"

    def __init__(
        self,
        config: pytest.Config,
        pool: Pool,
        guest: Guest | None,
        *,
        observe: Callable[[Machine], None],
        on_wait: Callable[[LeaseInfo], None],
        running: Callable[[], pytest.Item | None],
        coming: Callable[[pytest.Item | None, Sequence[Settings]], Iterable[Settings]],
    ) -> None:
        self._running = running
        self._coming = coming
        self._habits = Habits()
        self._config = config
        self._pool = pool
        self._guest = guest
        self._observe = observe
        self._on_wait = on_wait

    def __call__(
        self,
        ports: Sequence[Port] | str | None = None,
        *more: Any,
        **settings: Unpack[SettingKeywords],
    ) -> VmToBe:
        """Return what makes a VM that is ready in a ``with`` block, in a test or a fixture.

        Args:
            ports: guest ports, as the marker takes them; None means the setting ``expose``.
            more: is refused: what the marker takes one by one is a list here.
            settings: as the marker takes them; of the guest None means the session's.

        Raises:
            SettingError: a value or keyword is wrong.
            PortError: a host port cannot be had.
            HostError: QEMU, gvproxy or the guest is missing.
            MachineError: the VM does not get ready.
        """
        if more:
            raise SettingError(
                source=_WHERE, name="ports", value=(ports, *more),
                allowed="write ports as a list: vm_factory([8080, 9090])",
            )  # fmt: skip
        caller = sys._getframe(1)  # noqa: SLF001 - inspect's takes long to import
        where = f"{caller.f_code.co_filename}:{caller.f_lineno}"
        return VmToBe(lambda: self._made(ports, dict(settings)), where)

    def __enter__(self) -> NoReturn:
        raise self._refusal("a with block")

    def __exit__(self, *_raised: object) -> None:
        """Say nothing: it was never entered."""

    @contextlib.contextmanager
    def _made(
        self,
        ports: Sequence[Port] | str | None,
        settings: dict[str, Any],
    ) -> Iterator[VM]:
        guest = settings.pop("guest", None)
        own = guest if isinstance(guest, Guest) else self._guest
        if own is not guest and guest is not None:
            settings["guest"] = guest
        if ports is not None:
            settings["expose"] = ports
        wanted = options.settings_of_call(self._config, settings, _WHERE)
        test, habits = self._running(), self._habits
        habits.take(test, wanted)
        following = itertools.chain(habits.rest, self._coming(test, habits.whole))
        with self._pool.vm(
            wanted, own, observe=self._observe,
            on_wait=self._on_wait, following=following,
        ) as vm:  # fmt: skip
            yield vm
