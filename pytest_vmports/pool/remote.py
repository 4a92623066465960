"""Saved guests that come from elsewhere and go there: looked up before a boot, filled after one.

Whatever is wrong with the store or with what is in it costs a line and a boot, never a test.
"""

from __future__ import annotations

import tempfile
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_vmports.errors import HostError, VmPortsError
from pytest_vmports.pool.packed import SUFFIX, PackError, Wanted, pack, unpack
from pytest_vmports.system import clock
from pytest_vmports.system.far_files import FarError, FarFileError, far_files, in_time
from pytest_vmports.system.progress import for_whom, slowly

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_vmports.pool.template import Template
    from pytest_vmports.settings.far_store import FarStore
    from pytest_vmports.system.far_files import FarFiles

GET_SECONDS: Final = 60.0
"""How long fetching a saved guest may take."""
_PUT_SECONDS: Final = 120.0
_FETCHED, _WORKED = "fetched", "worked"


class Remote:
    """The store of one run.

    Args:
        wanted: where it is, and who is believed.
        shared: private folder of the run, where its workers leave word for each other.
        most: bytes that all files of a saved guest may have.
        tell: writes a line to the terminal.
    """

    def __init__(
        self, wanted: FarStore, shared: Path, most: int, tell: Callable[[str], None]
    ) -> None:
        self._wanted, self._most, self._tell = wanted, most, tell
        self._notes = shared / "store"
        self._files: FarFiles | None = None
        self._putting: list[threading.Thread] = []
        self._given_up: set[str] = set()

    def fetch(self, key: str, folder: Path, whose: str) -> bool:
        """Fill a folder with a saved guest; False where it has to be booted.

        Args:
            key: its name.
            folder: where it is to be, empty; it is so again where False is returned.
            whose: the guest's name.
        """
        if self._noted("off") or self._noted(key):
            return False
        doing = for_whom(f"fetching a template of {whose}")
        try:
            with (
                tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetched-") as scratch,
                slowly(self._tell, doing),
            ):
                packed = Path(scratch) / "packed"
                found: list[bool] = []
                get = partial(self._reached().get, f"{key}{SUFFIX}", packed, self._most)
                in_time(GET_SECONDS, lambda: found.append(get()), "fetch")
                if not found[0]:
                    return False
                with packed.open("rb") as file:
                    unpack(file, folder, Wanted(key, self._wanted.secret, self._most))
        except (PackError, FarFileError) as error:
            self.give_up(key, whose, str(error))
        except (FarError, HostError, OSError) as error:
            self._switch_off(f"{self._wanted.shown} cannot be used: {error}")
        else:
            self._note(f"{key}-{_FETCHED}")
            return True
        for remains in folder.iterdir():
            remains.unlink()
        return False

    def put(self, template: Template) -> None:
        """Begin to put a saved guest there, while tests go on; `close` waits for that."""
        if self._wanted.readonly or self._noted("off") or self._noted(template.folder.name):
            return
        thread = threading.Thread(
            target=self._put, args=(template,), name="vmports-put", daemon=True
        )
        thread.start()
        self._putting.append(thread)

    def on_trial(self, key: str) -> bool:
        """Whether it was fetched in this run, and no worker has seen it work."""
        fetched = self._noted(f"{key}-{_FETCHED}") and key not in self._given_up
        return fetched and not self._noted(f"{key}-{_WORKED}")

    def worked(self, key: str) -> None:
        """Let all workers of this run know that what was fetched works, if it was."""
        if self.on_trial(key):
            self._note(f"{key}-{_WORKED}")

    def give_up(self, key: str, whose: str, why: str) -> None:
        """Let no worker of this run use it again, and say so unless one has.

        Args:
            key: its name.
            whose: the guest's name.
            why: what is wrong with it.
        """
        self._given_up.add(key)
        if self._note(key):
            said = f"the template of {whose} in {self._wanted.shown} is not used: {why}"
            self._tell(f"vmports: {said}; it is booted instead")

    def close(self) -> None:
        """Wait for what is being put there. Safe to call again."""
        deadline = clock.now() + _PUT_SECONDS
        with slowly(self._tell, for_whom(f"putting templates into {self._wanted.shown}")):
            for thread in self._putting:
                thread.join(max(0.0, deadline - clock.now()))
        if any(thread.is_alive() for thread in self._putting):
            self._tell(f"vmports: {self._wanted.shown} is too slow: a template was not put there")
        self._putting = []

    def _put(self, template: Template) -> None:
        try:
            with tempfile.TemporaryDirectory(prefix="vmports-put-") as scratch:
                packed = Path(scratch) / "packed"
                with packed.open("wb") as file:
                    pack(template, file, self._wanted.secret)
                self._reached().put(packed, f"{template.folder.name}{SUFFIX}")
        except (FarError, VmPortsError, OSError, KeyError) as error:
            self._switch_off(f"nothing can be put into {self._wanted.shown}: {error}")

    def _reached(self) -> FarFiles:
        if self._files is None:
            self._files = far_files(self._wanted.url)
        return self._files

    def _switch_off(self, why: str) -> None:
        if self._note("off"):
            self._tell(f"vmports: {why}; it is not asked again in this run")

    def _noted(self, word: str) -> bool:
        return (self._notes / word).exists()

    def _note(self, word: str) -> bool:
        """Leave word for all workers; False where one has already."""
        try:
            self._notes.mkdir(exist_ok=True)
            (self._notes / word).touch(exist_ok=False)
        except FileExistsError:
            return False
        except OSError:
            pass  # the other workers find out by themselves
        return True
