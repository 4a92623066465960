"""The module that knows zstd: Python's own from 3.14 on, or the same for those before."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from pytest_vmports.errors import HostError


def module(what: str, extra: str) -> Any:
    """Return it.

    Args:
        what: what it is needed for, as "the image is compressed by zstd".
        extra: the extra of this package that brings it.

    Raises:
        HostError: it is not installed.
    """
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise HostError(
            f"{what}, which {name} reads, and that is missing: pip install "
            f"'pytest-vmports[{extra}]'"
        ) from error
