"""What is said when a fixture of a wider scope asks for one of ours that lives for one test."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

_VM = (
    "lives for one test. For a VM that several tests share, ask for vm_factory, which lives for "
    "the session: `with vm_factory([8080], setup=…) as vm: yield vm`"
)
_PORT = "lives for one test; session_free_port_factory lives for the session"
_INSTEAD: Mapping[str, str] = {
    "vm_with_ports": _VM,
    "exposed_ports": _VM,
    "vmports_settings": _VM,
    "free_port": _PORT,
    "free_port_factory": _PORT,
}


def explain(call: pytest.CallInfo[None]) -> None:
    """Add to pytest's message of a scope mismatch what to ask for in a fixture's place.

    Args:
        call: of a phase of a test, not reported yet.
    """
    error = None if call.excinfo is None else call.excinfo.value
    if not isinstance(error, pytest.fail.Exception) or not error.msg:
        return
    found = re.match(r"ScopeMismatch: .*?\bfixture '?(\w+)'?", error.msg, re.DOTALL)
    name = found[1] if found else ""
    # pytest raises the same error again for the next test that asks for the fixture.
    if name in _INSTEAD and _INSTEAD[name] not in error.msg:
        error.msg += f"\n\nvmports: {name} {_INSTEAD[name]} (docs/vm.md)"
