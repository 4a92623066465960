"""What of the hardware that a test asks for can be had: asked before anything boots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vmports.errors import SettingError
from pytest_vmports.system import processors

if TYPE_CHECKING:
    from pytest_vmports.settings.options import Settings
    from pytest_vmports.system.programs import Accelerator, Qemu


def check_cpu(settings: Settings, qemu: Qemu, accelerator: Accelerator) -> None:
    """Raise where this QEMU makes no such processor.

    Raises:
        SettingError: it does not; says why in QEMU's words, and names some that it has.
        ProgramStoppedError: the host keeps QEMU from running.
    """
    if settings.cpu is None:
        return
    why = processors.problem(qemu, accelerator, settings.cpu)
    if why is None:
        return
    raise SettingError(
        source=settings.sources["cpu"], name="cpu", value=settings.cpu,
        allowed=f"{why} (with {accelerator.name}); it has {', '.join(processors.some(qemu))} and "
        f"more, which {qemu.path} -cpu help lists",
    )  # fmt: skip
