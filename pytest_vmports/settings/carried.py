"""Settings that a run's controller brings to its workers on other hosts.

A worker on the controller's own host inherits its environment. One elsewhere has its host's, and
of the command line what was typed, not what ``PYTEST_ADDOPTS`` added.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pytest_vmports.settings.table import LEASED_PORT, MARKER, OPTIONS

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pytest

_PREFIX = f"{MARKER}_".upper()
_OURS = {f"{_PREFIX}{option.name.upper()}" for option in OPTIONS}
# What names a file, folder or program is known best by the host that has it.
_READERS = {"path", "program", "store", "secret"}
_OF_THE_HOST = {
    f"{_PREFIX}{option.name.upper()}" for option in OPTIONS if option.reader in _READERS
}


def said_here(config: pytest.Config) -> dict[str, dict[str, str]]:
    """Return what this process's environment and command line say, to be sent."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(_PREFIX) and (name in _OURS or not name.startswith(LEASED_PORT))
    }
    names = (f"{MARKER}_{option.name}" for option in OPTIONS)
    options = {name: config.getoption(name) for name in names}
    return {
        "environment": environment,
        "options": {name: value for name, value in options.items() if value is not None},
    }


def take(config: pytest.Config, said: Mapping[str, Mapping[str, Any]]) -> None:
    """Let what another process said hold here, for programs that tests run too.

    Of the environment the controller's wins, as it would on its own host; only what names a file,
    folder or program is the host's own, where that says it. Of the command line what was typed is
    here already.

    Args:
        config: pytest's, of this process.
        said: what `said_here` returned in the other.
    """
    for name, value in said["environment"].items():
        if name not in os.environ or name not in _OF_THE_HOST:
            os.environ[name] = value
    for name, value in said["options"].items():
        if config.getoption(name) is None:
            setattr(config.option, name, value)
