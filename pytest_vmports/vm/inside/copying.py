"""Files and folders between host and guest, as ``cp -a`` copies them, by the guest's tar.

Links stay links, but the one that was named is followed. Nothing is left out without a warning.
"""

from __future__ import annotations

import os
import posixpath
import re
import warnings
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pytest_vmports.errors import CopyTimeoutError, GuestFileError, GuestFileWarning
from pytest_vmports.errors.shown import within
from pytest_vmports.system.mishaps import printable
from pytest_vmports.system.patience import Limit
from pytest_vmports.system.said import malformed
from pytest_vmports.vm import arguments
from pytest_vmports.vm.arguments import anchored, quoted
from pytest_vmports.vm.inside import guest_links
from pytest_vmports.vm.inside.moved import Moved
from pytest_vmports.vm.inside.pack import Pack
from pytest_vmports.vm.inside.shell import end_of
from pytest_vmports.vm.inside.unpack import Unpacking, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from pytest_vmports.vm.inside.shell import Shell

LIMIT = 1 << 30
# The user's own settings must change nothing, nor the language of what tar says.
_PLAIN = "unset TAR_OPTIONS CDPATH; export LC_ALL=C\n"
# GNU tar takes `\n` in a name on its command line for a newline; others know no such thing.
_AS_IT_STANDS = "tar --help 2>&1 | grep -q -e --no-unquote && as_is=--no-unquote\n"
# Others than GNU's make some links last, after they have set the times of their folders.
_WHOSE = "case $(tar --version 2>&1) in *GNU*) ;; *) echo again;; esac"
_FITS = """\
no() { printf '%s is no %s\\n' "$1" "$2" >&2; exit 1; }
d() { if [ -L "$1" ] || { [ -e "$1" ] && [ ! -d "$1" ]; }; then no "$1" folder; fi; }
f() { if [ -d "$1" ] && [ ! -L "$1" ]; then no "$1" file; fi; }
"""
# Where a file's size says nothing of its content: cp reads what tar would not.
_STAGED = """\
case $(readlink -f "$name") in /proc|/proc/*|/sys|/sys/*)
    staged=$(mktemp -d) || exit
    trap 'chmod -R u+w "$staged"; rm -rf "$staged"' EXIT
    if [ -d "$name" ]; then how=-a; else how=-pL; fi
    cp $how "$name" "$staged/$own" || exit
    cd "$staged" || exit
    tar $as_is -c${follow}f - "$name"
    exit;;
esac
"""
_TOLD = re.compile(
    r"tar: .*(socket ignored|unknown file type|file changed as we read it|archive sockets)"
)
_AND_SO = re.compile(r"tar: (Exiting with failure status|error exit delayed).*")
# A guest's clock may be a second behind the host's.
_IDLE = re.compile(r"tar: .* time stamp .*")
_NAMED = 20
# Of errors and of what is asked beside a copy.
_MOST_SAID = 4 << 20
_SHOWN = 100
# Of a script that are sent at a time.
_LINES = 500


def put(
    shell: Shell,
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    timeout: float | None,
    *,
    moved: Moved | None = None,
) -> None:
    """Copy a file or folder into the guest; see `VM.put`.

    Args:
        shell: the way into it.
        source: what is copied.
        target: where it goes.
        timeout: the longest time in which nothing goes on.
        moved: is told how far it is.
    """
    named = arguments.path_text(source, "the source")
    guest_links.refuse(named)
    pack = Pack(Path(named))
    inner = _means_its_content(named)
    if inner and not pack.is_folder:
        raise GuestFileError(what=f"{named} is no folder on the host", remedy="name it without /.")
    wanted = arguments.path_text(target, "the target")
    what = f"{pack.source} to {wanted}"
    moved = moved or Moved()
    asking = _Asking(
        shell, f"vm.put of {what}, of which part may be there,", timeout, moved=moved,
        progress=lambda: moved.done,
    )  # fmt: skip
    place = anchored(wanted)
    own = _utf8(pack.name)
    if not own:
        raise GuestFileError(what=f"{pack.source} has no name", remedy="name a folder below it")
    # What can be known to fail on the host comes before anything is done in the guest.
    pack.check()
    moved.total = pack.size
    name = own if place.endswith("/") else posixpath.basename(place)
    folder = place if place.endswith("/") else posixpath.dirname(place)
    if inner:
        place = folder = posixpath.join(place, ".")
    looked, said = asking.ask(_look(place, folder, own, is_folder=pack.is_folder, inner=inner))
    if looked is None:
        raise _failed(what, said)
    into = b"into" in looked
    if into:
        name = own
    parent = place if into else folder
    if pack.is_folder:
        parent = posixpath.join(place, own) if into else place
    if pack.is_folder and b"merge" in looked:
        fits, said = asking.ask(f"{_PLAIN}cd {quoted(parent)} && exec sh -s", _comparison(pack))
        if fits is None:
            raise _failed(what, said)
    said = _unpack_in_guest(asking, parent, pack, name, what)
    told = [line for line in said.splitlines() if line.strip() and not _IDLE.fullmatch(line)]
    shorter = [f"{path} became shorter meanwhile: zeros follow" for path in pack.shortened]
    _warn(what, [*pack.left_out, *shorter, *told])


def get(
    shell: Shell,
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    timeout: float | None,
    limit: int = LIMIT,
    *,
    moved: Moved | None = None,
) -> Path:
    """Copy a file or folder out of the guest; see `VM.get`.

    It is written as it comes. What the guest's tar says decides at its end whether it is whole.
    """
    wanted = arguments.path_text(source, "the source")
    aim = arguments.path_text(target, "the target")
    path = PurePosixPath(wanted)
    if path.name in {"", ".."}:
        raise GuestFileError(what=f"{wanted!r} names no file", remedy="name a file or folder")
    name = _native(path.name)
    what = f"{wanted} from the guest"
    guest_links.refuse(aim)
    place = Path(aim)
    there = os.path.isdir(aim)  # noqa: PTH112 - Path's raises for a long name
    if _means_its_content(wanted):
        if there:
            place = place.resolve()
    elif there or aim.endswith("/") or posixpath.basename(aim) in {".", ".."}:
        place /= name
    with closing(Unpacking(name, place, wanted, limit)) as unpacking:
        asking = _Asking(
            shell, f"vm.get of {what}", timeout, moved=moved or Moved(),
            progress=lambda: unpacking.taken, partial=lambda: unpacking.partial,
        )  # fmt: skip
        script = _packing(anchored(str(path.parent)), path.name)
        done, said = asking.ask(script, take=unpacking.feed)
        if done is None:
            raise _failed(what, said, unpacking.partial)
        unpacking.finish()
    told = [line for line in said.splitlines() if line.strip() and not _AND_SO.fullmatch(line)]
    _warn(what, [*unpacking.left_out, *told], unpacking.more_left_out)
    return place


class _Asking:
    """The commands of one copy.

    Args:
        shell: the way into the guest.
        what: is done, for messages.
        timeout: the longest time in which nothing goes on.
        moved: is told how far the copy is.
        progress: grows as long as something goes on. What a guest may say without end is nothing.
        partial: a word on what is there.
    """

    def __init__(
        self,
        shell: Shell,
        what: str,
        timeout: float | None,
        *,
        moved: Moved,
        progress: Callable[[], int],
        partial: Callable[[], str] = str,
    ) -> None:
        self._shell, self._what, self._partial = shell, what, partial
        self._timeout = arguments.seconds_or_none(timeout)
        self._moved, self._progress = moved, progress
        self._seen = 0
        self._limit = Limit(self._timeout, per_progress=True)

    def ask(
        self,
        script: str,
        given: Iterable[bytes] = (),
        take: Callable[[bytes], None] | None = None,
    ) -> tuple[bytes | None, str]:
        """Return what a script wrote, or None where it failed; and its complaints.

        Args:
            script: for the guest's shell.
            given: its input, which is read as it goes.
            take: is given what it writes, as it comes.

        Raises:
            CopyTimeoutError: nothing has gone on for too long.
            GuestSaidError: it says more than one can have to say.
        """
        arguments.short_enough(script)
        self._limit.went_on()
        heard = _Heard(self._in_time, take, self._moved)
        with closing(self._counted(given)) as counted:
            code, _, _ = self._shell.execute(
                script, timeout=self._timeout, input=counted, sink=heard, per_progress=True
            )
        said = heard.errors.decode("utf-8", "surrogateescape")
        if code is None:
            raise self._too_late(said)
        fine = code == 0 or _all_told(code, said)
        return (bytes(heard.output) if fine else None), said

    def _counted(self, given: Iterable[bytes]) -> Generator[bytes, None, None]:
        for chunk in given:
            yield chunk
            self._moved.add(len(chunk))

    def _in_time(self) -> None:
        """Raise when what comes has been of no use for too long."""
        if (seen := self._progress()) != self._seen:
            self._seen = seen
            self._limit.went_on()
        elif self._limit.over:
            raise self._too_late("")

    def _too_late(self, said: str) -> CopyTimeoutError:
        what = f"{self._what}{self._partial()}"
        return CopyTimeoutError(cmd=what, timeout=self._timeout, output="", stderr=said)


class _Heard:
    """What a script writes: as much of it as it can have to say. See `shell.Sink`."""

    def __init__(
        self, in_time: Callable[[], None], take: Callable[[bytes], None] | None, moved: Moved
    ) -> None:
        self.output, self.errors = bytearray(), bytearray()
        self._in_time, self._take, self._moved = in_time, take, moved

    def out(self, data: bytes) -> None:
        self._in_time()
        if self._take is None:
            _append(self.output, data)
        else:
            self._take(data)
            self._moved.add(len(data))

    def err(self, data: bytes) -> None:
        self._in_time()
        _append(self.errors, data)


def _append(heard: bytearray, data: bytes) -> None:
    heard += data
    if len(heard) > _MOST_SAID:
        problem = f"it says more than {_MOST_SAID >> 20} MiB of what should be a few lines"
        raise malformed("the command that copies, in the guest,", problem, bytes(heard[-_SHOWN:]))


def _unpack_in_guest(asking: _Asking, parent: str, pack: Pack, name: str, what: str) -> str:
    """Return what the guest's tar says while it unpacks an archive."""
    unpacking = f"{_PLAIN}mkdir -p {quoted(parent)} && cd {quoted(parent)} && tar -xpf - || exit\n"
    done, said = asking.ask(unpacking + _WHOSE, pack.chunks(_native(name)))
    if done and pack.has_links:
        done, more = asking.ask(unpacking, pack.folders())
        said += more
    if done is None:
        raise _failed(what, said, "; part of it may be there")
    return said


def _comparison(pack: Pack) -> Iterator[bytes]:
    """Yield a script that ends when a folder would take the place of anything else, or give way.

    Each tar has an own idea of what to do then; `cp` refuses.
    """
    lines = [_FITS]
    for folder, name in pack.names():
        lines.append(f"{'d' if folder else 'f'} {quoted(_utf8(name))}\n")
        if len(lines) == _LINES:
            yield "".join(lines).encode("utf-8", "surrogateescape")
            lines.clear()
    yield "".join(lines).encode("utf-8", "surrogateescape")


def _look(place: str, folder: str, own: str, *, is_folder: bool, inner: bool) -> str:
    """Return a script that makes the folder to copy into, and says whether ``place`` is it.

    And whether there is a folder to be merged with.
    """
    file = '[ -e "$at" ] && [ ! -f "$at" ]'
    clash = '[ -e "$at" ] || [ -L "$at" ]' if is_folder else file
    kind = "no folder" if is_folder else "no file"
    exact = '[ -d "$at" ] && [ ! -L "$at" ]' if is_folder else "false"
    into = "" if inner else f'[ ! -d "$at" ] || {{ echo into; at=$at/{quoted(own)}; }}\n'
    return (
        f"{_PLAIN}at={quoted(place)}; mkdir -p {quoted(folder)} || exit\n{into}"
        f"if {exact}; then echo merge\n"
        f"elif {clash}; then printf '%s is {kind}\\n' \"$at\" >&2; exit 1; fi"
    )


def _packing(parent: str, name: str) -> str:
    """Return a script that writes an archive of ``name`` in a folder of the guest."""
    as_it_stands = _AS_IT_STANDS if "\\" in name else ""
    return (
        f"{_PLAIN}cd {quoted(parent)} || exit\n"
        f"own={quoted(name)}; name=./$own as_is= follow=\n"
        f"{as_it_stands}"
        'if [ -d "$name" ]; then name=$name/.\n'
        'elif [ -f "$name" ]; then follow=h\n'
        'elif [ -e "$name" ]; then echo "it is neither a file nor a folder" >&2; exit 1\n'
        'elif [ -L "$name" ]; then echo "it is a link that leads nowhere" >&2; exit 1\n'
        'else echo "no such file or folder" >&2; exit 1; fi\n'
        f'{_STAGED}exec tar $as_is -c${{follow}}f - "$name"'
    )


def _all_told(code: int, said: str) -> bool:
    """Whether tar failed only for what a warning can say: all the rest is there."""
    lines = [line for line in said.splitlines() if line.strip()]
    told = [line for line in lines if _TOLD.fullmatch(line)]
    return (
        code == 1 and bool(told) and all(line in told or _AND_SO.fullmatch(line) for line in lines)
    )


def _failed(what: str, said: str, partial: str = "") -> GuestFileError:
    text = within(end_of(said))
    remedy = "see what it says; the guest needs tar"
    return GuestFileError(what=f"{what} could not be copied: {text}{partial}", remedy=remedy)


def _warn(what: str, left_out: Sequence[str], others: int = 0) -> None:
    if not left_out:
        return
    others += max(len(left_out) - _NAMED, 0)
    more = f"\n  and {others} more" if others else ""
    names = "".join(f"\n  {shown(name)}" for name in left_out[:_NAMED])
    warnings.warn(
        f"not all of {printable(what)} was copied as it is:{names}{more}",
        GuestFileWarning, stacklevel=4,
    )  # fmt: skip


def _means_its_content(source: str) -> bool:
    """Whether a path is that of what is in a folder, for `cp`, and does not lend it a name."""
    return posixpath.basename(source.rstrip("/")) in {".", ".."}


def _utf8(name: str) -> str:
    """Return a host's name for a guest's command, which is UTF-8 whatever the host speaks."""
    return os.fsencode(name).decode("utf-8", "surrogateescape")


def _native(name: str) -> str:
    """Return a guest's name for use on the host, where its bytes stay the same."""
    return os.fsdecode(name.encode("utf-8", "surrogateescape"))
