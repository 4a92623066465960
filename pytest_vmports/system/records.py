"""What we wrote into a file ourselves and read again: believed in its own shape alone.

Another version may have written it, a full disk may have cut it, and whoever may write there may
have put anything in its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict

from pytest_vmports.system.small_file import LIMIT, read_object

if TYPE_CHECKING:
    from pathlib import Path


class Record(BaseModel):
    """The shape of such a file. Its members have their very types, and others may stand beside."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        strict=True, frozen=True, extra="allow", hide_input_in_errors=True
    )


_Shape = TypeVar("_Shape", bound=Record)


def read_record(path: Path, shape: type[_Shape], limit: int = LIMIT) -> _Shape:
    """Return what a file of up to ``limit`` bytes holds.

    Raises:
        OSError: as `read_small`.
        ValueError: it holds something else; pydantic's ValidationError is one.
    """
    return shape.model_validate(read_object(path, limit))
