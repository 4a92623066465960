"""VMs made by the test itself, as many as it likes."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

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

    @contextlib.contextmanager
    def __call__(
        self,
        ports: Sequence[Any] | str | None = None,
        *,
        guest: Guest | None = None,
        **settings: Any,
    ) -> Iterator[VM]:
        """Yield a VM that is ready, for a ``with`` block of any length, in a test or a fixture.

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
        if ports is not None:
            settings["expose"] = ports
        wanted = options.settings_of_call(self._config, settings, _WHERE)
        with self._pool.vm(
            wanted, guest or self._guest, observe=self._observe,
            on_wait=self._on_wait,
        ) as vm:  # fmt: skip
            yield vm
