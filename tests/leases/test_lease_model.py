"""The protocol of a lease as a small machine, every state of which is visited.

Three processes want two ports. A process locks a port's file, puts its guard up, starts a child
that shares the lock, the child binds, the guard goes, and all is given back: guard first, then
lock, the child ended. Any process may die between any two steps, and the kernel then drops what
only the dead held. Locks belong to an *open file*, shared by a process and its child; a lock file
that was removed lives on for who has it open, and the next to open the path gets a new one.

Explored by plain breadth-first search: nothing is sampled.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PROCESSES = range(3)
PORTS = range(2)


@dataclass(frozen=True, order=True)
class Holder:
    """A process with its child, and the one port it deals with at a time."""

    alive: bool = True
    step: str = "idle"  # idle, opened, locked, guarded, started, bound, unguarded, stopping
    port: int = -1
    file: int = -1  # generation of the lock file that it opened
    child: bool = False  # the child lives
    child_bound: bool = False


@dataclass(frozen=True)
class Model:
    """The rules; the switches break them on purpose."""

    lock: bool = True
    guard: bool = True  # False: UDP, where a guard would keep the server out
    unlink: bool = False  # the lock file is removed after the port was given back
    look_again: bool = True  # after locking: is the file still there?
    lock_to_child: bool = True

    def start(self) -> tuple[tuple[Holder, ...], tuple[int, ...]]:
        return tuple(Holder() for _ in PROCESSES), tuple(0 for _ in PORTS)

    def locked(self, holders: tuple[Holder, ...], port: int, file: int) -> bool:
        return self.lock and any(
            (h.port, h.file) == (port, file)
            and (h.alive or (h.child and self.lock_to_child))
            and h.step not in {"idle", "opened"}
            for h in holders
        )

    def occupied(self, holders: tuple[Holder, ...], port: int) -> bool:
        """Whether the kernel refuses a strict bind: a guard is up or a child has bound."""
        return any(
            h.port == port
            and ((self.guard and h.alive and h.step in {"guarded", "started"}) or h.child_bound)
            for h in holders
        )

    def moves(self, state: tuple[tuple[Holder, ...], tuple[int, ...]]) -> Iterator:
        holders, files = state
        for i, h in enumerate(holders):
            for changed, new_files in self.moves_of(h, holders, files):
                # Processes are alike: which of them is where makes no difference.
                yield tuple(sorted((*holders[:i], changed, *holders[i + 1 :]))), new_files

    def moves_of(  # noqa: C901, PLR0912 - one table of moves reads better whole
        self, h: Holder, holders: tuple[Holder, ...], files: tuple[int, ...]
    ) -> Iterator:
        if h.alive:
            # The kernel closes a dead process's descriptors; a child may outlive it.
            yield replace(h, alive=False), files
        elif not h.child and h.step != "idle":
            yield Holder(alive=False), files
        if h.child:
            yield replace(h, child=False, child_bound=False), files
            # A guard lets a bind with SO_REUSEADDR through, and only one listens.
            if not any(o.port == h.port and o.child_bound for o in holders):
                yield replace(h, child_bound=True), files
        if not h.alive:
            return
        if h.step == "idle":
            for port in PORTS:
                yield replace(h, step="opened", port=port, file=files[port]), files
        elif h.step == "opened":
            if self.locked(holders, h.port, h.file) or (
                self.look_again and h.file != files[h.port]
            ):
                yield Holder(), files
            else:
                yield replace(h, step="locked"), files
        elif h.step == "locked":
            if self.occupied(holders, h.port):
                yield Holder(), files
            else:
                yield replace(h, step="guarded"), files
        elif h.step == "guarded":
            yield replace(h, step="started", child=True), files
        elif h.step == "started" and h.child_bound:
            yield replace(h, step="unguarded"), files
        elif h.step in {"started", "unguarded"} and not h.child:
            gone = files
            if self.unlink:
                gone = tuple(f + (p == h.port) for p, f in enumerate(files))
                if gone[h.port] > 1:  # one removal shows what goes wrong
                    return
            yield Holder(), gone


def explore(model: Model) -> tuple[int, int, int]:
    """Return states seen, states with two live holders of a port, ports that are lost."""
    first = model.start()
    seen = {first}
    queue = deque([first])
    doubles = lost = 0
    while queue:
        state = queue.popleft()
        holders, files = state
        for port in PORTS:
            live = [
                h for h in holders
                if h.port == port
                and h.step not in {"idle", "opened", "locked"}
                and (h.alive or h.child)
            ]  # fmt: skip
            doubles += len(live) > 1
            unused = not live and not any(
                h.port == port and h.step == "locked" and h.alive for h in holders
            )
            lost += unused and (
                model.locked(holders, port, files[port]) or model.occupied(holders, port)
            )
        for following in model.moves(state):
            if following not in seen:
                seen.add(following)
                queue.append(following)
    return len(seen), doubles, lost


@pytest.mark.parametrize("guard", [True, False], ids=["tcp", "udp"])
def test_no_interleaving_gives_a_port_to_two_or_loses_one(guard):
    states, doubles, lost = explore(Model(guard=guard))
    assert states > 1000
    assert (doubles, lost) == (0, 0)


@pytest.mark.parametrize("guard", [True, False], ids=["tcp", "udp"])
def test_a_cleaner_that_removes_lock_files_does_no_harm(guard):
    assert explore(Model(guard=guard, unlink=True))[1:] == (0, 0)


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(Model(lock=False), id="guard without lock"),
        pytest.param(Model(guard=False, lock_to_child=False), id="lock not shared with the child"),
        pytest.param(
            Model(guard=False, unlink=True, look_again=False), id="removed lock file not noticed"
        ),
    ],
)
def test_the_search_finds_what_is_wrong_with_a_broken_protocol(broken):
    assert explore(broken)[1] > 0
