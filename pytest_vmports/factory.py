"""VMs made by the test itself, as many as it likes."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from pytest_vmports import options

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pytest

    from pytest_vmports.guests.guest import Guest
    from pytest_vmports.pool.handle import VM
    from pytest_vmports.pool.pool import Pool
    from pytest_vmports.report.recorder import Recorder

_WHERE = "vm_factory"


class VmFactory:
    """Makes VMs; what the fixture ``vm_factory`` returns.

    Args:
        config: pytest's.
        pool: makes them.
        guest: what they boot unless told otherwise; None means the setting.
        recorder: takes note of its VMs, and of ports that were waited for.
    """

    def __init__(
        self,
        config: pytest.Config,
        pool: Pool,
        guest: Guest | None,
        recorder: Recorder,
    ) -> None:
        self._config = config
        self._pool = pool
        self._guest = guest
        self._recorder = recorder

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
            wanted, guest or self._guest, observe=self._recorder.observe,
            on_wait=self._recorder.on_wait,
        ) as vm:  # fmt: skip
            yield vm
