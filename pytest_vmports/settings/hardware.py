"""How a setting's text becomes a piece of hardware; see parse."""

from __future__ import annotations

import re
from typing import Any

from pytest_vmports.settings import parse

_NAME = r"[A-Za-z0-9_.-]+"
_CPU = re.compile(rf"{_NAME}(,[+-]?{_NAME}(=[^,\s]*)?)*")


def cpu(value: Any) -> str | None:
    """Read a processor as QEMU's ``-cpu`` takes it; empty means the one that is best here."""
    if re.fullmatch(r"\d{1,3}", str(value)):
        raise ValueError("write a processor, like max; how many there are says cpus")
    written = parse.text_or_none(value)
    if written is not None and not _CPU.fullmatch(written.strip()):
        raise ValueError(
            "write a processor as QEMU's -cpu takes it, like max or qemu64,+avx, without blanks"
        )
    return None if written is None else written.strip()
