"""VMs made by the test itself, as many as it likes."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NoReturn

from pytest_vmports.errors import NotEnteredError
from pytest_vmports.settings import options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pytest

    from pytest_vmports.guests.guest import Guest
    from pytest_vmports.leases import LeaseInfo
    from pytest_vmports.pool.handle import VM
    from pytest_vmports.pool.pool import Pool
    from pytest_vmports.vm.machine import Machine

_WHERE = "vm_factory"


class VmToBe(contextlib.AbstractContextManager["VM", "bool | None"]):
    """A VM that the ``with`` statement makes and ends; whoever uses it without one is told so.

    Args:
        made: does both.
    """

    def __init__(self, made: contextlib.AbstractContextManager[VM, bool | None]) -> None:
        self._made = made

    def __enter__(self) -> VM:
        return self._made.__enter__()

    def __exit__(self, *raised: Any) -> bool | None:  # noqa: PYI036 - passed on
        return self._made.__exit__(*raised)

    def __getattr__(self, name: str) -> NoReturn:
        # pytest, copy and others look for names with underscores in any object.
        if name.startswith("_"):
            raise AttributeError(name)
        raise NotEnteredError(used=f".{name}")

    def __getitem__(self, port: Any) -> NoReturn:
        raise NotEnteredError(used=f"[{port!r}]")

    def __iter__(self) -> Iterator[NoReturn]:
        raise NotEnteredError(used="iteration")

    def __len__(self) -> int:
        raise NotEnteredError(used="len()")

    def __bool__(self) -> bool:
        return True


class VmFactory:
    """Makes VMs; what the fixture ``vm_factory`` returns.

    Args:
        config: pytest's.
        pool: makes them.
        guest: what they boot unless told otherwise; None means the setting.
        observe: told of every machine before it starts.
        on_wait: told the holder of a fixed port that is waited for.
    """

    def __init__(
        self,
        config: pytest.Config,
        pool: Pool,
        guest: Guest | None,
        *,
        observe: Callable[[Machine], None],
        on_wait: Callable[[LeaseInfo], None],
    ) -> None:
        self._config = config
        self._pool = pool
        self._guest = guest
        self._observe = observe
        self._on_wait = on_wait

    def __call__(
        self,
        ports: Sequence[Any] | str | None = None,
        *,
        guest: Guest | None = None,
        **settings: Any,
    ) -> VmToBe:
        """Return what makes a VM that is ready in a ``with`` block, in a test or a fixture.

        Args:
            ports: guest ports, as the marker takes them; None means the setting ``expose``.
            guest: what to boot; None means the session's.
            settings: as the marker takes them.

        Raises:
            SettingError: a value or keyword is wrong.
            PortError: a host port cannot be had.
            HostError: QEMU, gvproxy or the guest is missing.
            MachineError: the VM does not get ready.
        """
        return VmToBe(self._made(ports, guest, settings))

    @contextlib.contextmanager
    def _made(
        self, ports: Sequence[Any] | str | None, guest: Guest | None, settings: dict[str, Any]
    ) -> Iterator[VM]:
        if ports is not None:
            settings["expose"] = ports
        wanted = options.settings_of_call(self._config, settings, _WHERE)
        with self._pool.vm(
            wanted, guest or self._guest, observe=self._observe,
            on_wait=self._on_wait,
        ) as vm:  # fmt: skip
            yield vm
