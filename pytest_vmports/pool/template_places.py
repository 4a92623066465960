"""Where templates are kept: the user's cache, or the run's own folder where that is of no use."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_vmports.errors import StateDirError
from pytest_vmports.pool.template_store import TemplateStore
from pytest_vmports.vm.plan import key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pytest_vmports.pool.template import Template

_NO_CACHE, _NOWHERE = "no-cache", "no-templates"


class TemplatePlaces:
    """Opens a place when a template is wanted, and no sooner: few tests need one.

    A cache may be missing, another user's, read-only or full. What is in a read-only one is used.
    What cannot be kept there is kept for the run, in a folder that its workers share; where that
    is in vain too, VMs boot from cold. Each is found out and told once for all workers.

    Args:
        cache: the folder; None means the user's cache folder.
        shared: private folder of the run.
        limit: bytes on disk that all templates of a place may take.
        tell: writes a line to the terminal.
    """

    def __init__(
        self, cache: Path | None, shared: Path, limit: int, tell: Callable[[str], None]
    ) -> None:
        self._cache = cache
        self._shared = shared
        self._limit = limit
        self._tell = tell
        self._stores: dict[str, TemplateStore] = {}
        self._distrusted: set[str] = set()
        self._marks: set[str] = set()

    def find(
        self, facts: Mapping[str, Any], build: Callable[[Path], None], timeout: float
    ) -> Template | None:
        """Return the template for ``facts``, built when need be; None where none can be kept.

        Args:
            facts: everything that shapes it.
            build: see `TemplateStore.get`; where it fails for want of room it says so by a
                `StateDirError` with the folder that it was to fill, or the one above.
            timeout: seconds to wait for another process that builds it.

        Raises:
            TemplateBusyError: another process has been building it for longer.
        """
        store = None if key_of(facts) in self._distrusted else self._store("cache")
        if store is not None:
            with self._falling_back(store.base, _NO_CACHE):
                found = store.use(facts)
                if found is not None and found.writable:
                    return found
                if found is not None:
                    build = found.copy_to
                elif not self._marked(_NO_CACHE):
                    return store.get(facts, build, timeout)
        spare = None if self._marked(_NOWHERE) else self._store("spare")
        if spare is not None:
            with self._falling_back(spare.base, _NOWHERE):
                return spare.get(facts, build, timeout)
        return None

    def discard(self, template: Template) -> None:
        """Give up a template that did not work; the next `find` builds it anew."""
        for store in self._stores.values():
            if store.base == template.folder.parent and not store.discard(template):
                self._distrusted.add(template.folder.name)
        if template.folder.parent == self._shared / "templates":
            # Where it was copied from it would be found again.
            self._distrusted.add(template.folder.name)

    def close(self) -> None:
        """Let go of the templates in use. Safe to call again."""
        for store in self._stores.values():
            store.close()

    def _store(self, name: str) -> TemplateStore | None:
        """Return the place of a name, opened; None where it cannot be."""
        if name in self._stores:
            return self._stores[name]
        base, mark = (
            (self._cache, _NO_CACHE) if name == "cache" else (self._shared / "templates", _NOWHERE)
        )
        with self._falling_back(base, mark):
            return self._stores.setdefault(name, TemplateStore(base, self._limit, self._tell))
        return None

    @contextlib.contextmanager
    def _falling_back(self, base: Path | None, mark: str) -> Iterator[None]:
        try:
            yield
        except StateDirError as error:
            if base is not None and not Path(error.path).is_relative_to(base):
                raise  # another folder's, as that of the leases
            self._note(mark, error)

    def _note(self, mark: str, error: StateDirError) -> None:
        """Say what becomes of templates now, unless another worker has."""
        said = {
            _NO_CACHE: "saved guests are kept for this run only",
            _NOWHERE: "saved guests are kept nowhere, so every VM boots from cold",
        }
        self._marks.add(mark)
        try:
            (self._shared / mark).touch(exist_ok=False)
        except FileExistsError:
            return
        except OSError:
            pass  # full as well: the other workers find out by themselves
        self._tell(f"vmports: {said[mark]}: {error}")

    def _marked(self, mark: str) -> bool:
        return mark in self._marks or (self._shared / mark).exists()
