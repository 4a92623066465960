"""A file that is there when all of it is, and not before."""

from __future__ import annotations

import contextlib
import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import IO


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a new file, which gets its name where the ``with`` block ends well, and goes if not.

    Whoever else may read it is said by this user's umask.

    Args:
        path: its name; what has it already is replaced.

    Raises:
        OSError: it cannot be made or renamed.
    """
    part = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    with contextlib.ExitStack() as unless_it_is_whole:
        with part.open("xb") as file:
            unless_it_is_whole.callback(part.unlink)
            yield file
        part.replace(path)
        unless_it_is_whole.pop_all()
