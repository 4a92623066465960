"""All templates of one user."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pytest_vmports.errors import TemplateBusyError
from pytest_vmports.pool.template import Template
from pytest_vmports.system.store import Store
from pytest_vmports.system.user_cache import user_cache
from pytest_vmports.vm.plan import key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


class TemplateStore(Store[Template]):
    """The templates of one user; of ``base`` None means the user's cache folder."""

    word = "a template"
    doing = "builds the template of"
    remedy = "set cache_dir"
    digested: ClassVar[tuple[str, ...]] = Template.digested

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
    return user_cache("cache_dir") / "templates"
