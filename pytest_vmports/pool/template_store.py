"""All templates of one user."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from pytest_vmports.errors import StateDirError, TemplateBusyError
from pytest_vmports.pool.template import Template
from pytest_vmports.system.store import Store
from pytest_vmports.vm.plan import key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class TemplateStore(Store[Template]):
    """The templates of one user; of ``base`` None means the user's cache folder."""

    word = "a template"
    doing = "builds the template of"
    remedy = "set cache_dir"
    digested = Template.digested

    def __init__(
        self, base: Path | None, limit: int, say: Callable[[str], None] = lambda _: None
    ) -> None:
        super().__init__(base or default_base(), limit, say)

    @staticmethod
    def key(facts: Mapping[str, Any]) -> str:
        """Return the template's name; see `key_of`."""
        return key_of(facts)

    def _opened(self, folder: Path, lock: int) -> Template:
        return Template(folder, lock)

    def _busy(self, name: str, timeout: float, lock: str) -> Exception:
        return TemplateBusyError(name=name, timeout=timeout, lock=lock)


def default_base() -> Path:
    """Return the folder of templates in the user's cache folder; it may not be there.

    Raises:
        StateDirError: the user has no home.
    """
    try:
        # Made of HOME, or of the list of users, which a number without a name is not in.
        cache = Path(platformdirs.user_cache_dir("pytest-vmports"))
    except RuntimeError:
        cache = Path("~")
    # Older releases of platformdirs take an empty HOME for the root folder.
    is_root = os.environ.get("HOME") == "" and cache.parts[1:2] == (".cache",)
    if is_root or not cache.is_absolute():
        raise StateDirError(
            path="~/.cache/pytest-vmports",
            reason="no home directory is known for this user, and HOME is not set",
            remedy="set HOME, XDG_CACHE_HOME or cache_dir",
        )
    return cache / "templates"
