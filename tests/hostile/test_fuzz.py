"""Each parser of what a guest says takes near-valid inputs, and raises nothing but our own errors.

`PARSERS` is the inventory of them: a new one gets a row.
"""

from __future__ import annotations

import pytest
from fuzz import Parser, changed_bytes, fuzz

from pytest_vmports.system.said import said_by
from pytest_vmports.vm.inside import listening

TABLES = (
    b"servers\n   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0\n"
    b"datagrams\n  9: 00000000:14E9 00000000:0000 07 00000000:00000000 00:00000000 00000000     0\n"
    b"cards\neth0 5a:94:ef:e4:0c:ee 0x1003\nlo 00:00:00:00:00:00 0x9\n"
    b"addresses\n2: eth0    inet 192.168.127.2/24 brd 192.168.127.255 scope global eth0\nend\n"
)


def _heard(said: bytes) -> listening.Heard:
    with said_by("the guest"):
        return listening.heard(said)


PARSERS = [Parser("vm.inside.listening.heard", _heard, [TABLES], changed_bytes)]


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_a_parser_raises_nothing_but_our_errors(parser):
    taken = fuzz(parser)
    assert taken  # near-valid: a generator whose inputs are all refused shows nothing
