"""What a guest says that it keeps of its address is read as that, or not at all."""

from __future__ import annotations

import pytest

from pytest_vmports.errors import GuestSaidError
from pytest_vmports.vm.inside.own_address import found_in, why_it_stays

SAID = {
    b"end\n": None,
    b"socket 1F90\nend\n": "it listens on its own address there alone (port 8080)",
    b"program --as=192.168.128.253\nfile /etc/x\nend\n":
        "a program in it was given its address there (--as=192.168.128.253)",
    b"file /etc/\xff\x1b[2J\nend\n": "its address there stands in its file /etc/",
    b"card\nsearch\nend\n": "its setup has changed the address of its second card",
    b"search\nend\n": "it could not be looked through",
}  # fmt: skip


@pytest.mark.parametrize("said", SAID, ids=str)
def test_the_first_that_it_keeps_is_the_reason_and_can_be_shown(said):
    why = found_in(said)
    if SAID[said] is None:
        assert why is None
    else:
        assert why.startswith(SAID[said]) and why.isprintable()


@pytest.mark.parametrize(
    "said",
    [
        b"", b"end", b"card\n", b"end\nend\n", b"end\ncard\n", b"socket 80\nend\n",
        b"sh: no\nend\n", b"file \nend\n", b"card\n\nend\n", b"file /x\n" * 1000 + b"end\n",
    ],
    ids=lambda said: str(said[:30]),
)  # fmt: skip
def test_what_is_no_answer_is_refused(said):
    with pytest.raises(GuestSaidError, match="asked what it keeps of its address"):
        found_in(said)


def test_a_guest_that_does_not_answer_in_time_is_not_cloned():
    class Shell:
        """Faked: of a guest in which the search does not end."""

        def execute(self, command, **_):
            return None, b"", b""

    assert "could not be looked through" in why_it_stays(Shell())
