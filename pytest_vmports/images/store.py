"""The images that are kept, each fetched and made once for all tests of a user."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from filelock import Timeout

from pytest_vmports.errors import FetchError
from pytest_vmports.guests import container
from pytest_vmports.system import clock
from pytest_vmports.system.store import Store
from pytest_vmports.system.stored import KEY_LENGTH, Stored, files_of
from pytest_vmports.system.user_cache import user_cache

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

REMEDY: Final = "set images_dir"
_PART: Final = ".part"
# What came of a file that nobody has gone on with for so long is removed.
_PART_SECONDS: Final = 3 * 86400.0


@dataclass(frozen=True)
class Image(Stored):
    """An image that is in use."""

    @property
    def path(self) -> Path:
        """The image."""
        beside = {container.FILES, container.FACTS}
        (file,) = (one for one in files_of(self.folder) if one.name not in beside)
        return file


class ImageStore(Store[Image]):
    """The images of one user; of ``base`` None means the user's cache folder."""

    word = "an image"
    doing = "fetches"
    remedy = REMEDY

    def __init__(
        self, base: Path | None, limit: int, say: Callable[[str], None] = lambda _: None
    ) -> None:
        super().__init__(base or user_cache("images_dir") / "images", limit, say)

    @staticmethod
    def key(facts: Mapping[str, Any]) -> str:
        """Return the name under which an image is kept: by its content, where that is known."""
        text = json.dumps(facts["content"], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]

    def part(self, facts: Mapping[str, Any]) -> Path:
        """Return the file that keeps what has come of an image until it is whole."""
        return self.base / f"{self.key(facts)}{_PART}"

    def clear(self) -> int:
        """Remove all images that nobody uses, and what came of others; return how many images."""
        self._remove_parts(0.0)
        return super().clear()

    def _sweep(self) -> None:
        super()._sweep()
        self._remove_parts(_PART_SECONDS)

    def _remove_parts(self, age: float) -> None:
        for part in self.base.glob(f"{'[0-9a-f]' * KEY_LENGTH}{_PART}"):
            # Whoever fetches it holds the lock.
            with contextlib.suppress(Timeout, FileNotFoundError), self._locked_now(part.stem):
                if clock.wall() - part.stat().st_mtime >= age:
                    part.unlink()

    def _opened(self, folder: Path, lock: int) -> Image:
        return Image(folder, lock)

    def _busy(self, name: str, timeout: float, lock: str) -> Exception:
        return FetchError(
            source=name, problem=f"another process has been fetching it for {timeout:.0f} s, and "
            f"holds {lock}", remedy="look what keeps it, or end it",
        )  # fmt: skip
