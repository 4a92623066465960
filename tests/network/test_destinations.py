"""What a guest may reach: how a list is written, and what it holds."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_vmports.network.destinations import Destinations, read
from pytest_vmports.settings import parse

# As it is written, and as it is shown.
WRITTEN = {
    "packages.example.org": "packages.example.org",
    "Packages.Example.ORG.": "packages.example.org",
    "*.example.org": "*.example.org",
    "example.org:443": "example.org:443",
    "*.example.org:443": "*.example.org:443",
    "registry.": "registry",
    "registry:5000": "registry:5000",
    "_dns.example.org": "_dns.example.org",
    "bücher.example": "xn--bcher-kva.example",
    "*.BÜCHER.example:443": "*.xn--bcher-kva.example:443",
    "xn--strae-oqa.example": "xn--strae-oqa.example",
    "1e100.net": "1e100.net",
    "192.0.2.7": "192.0.2.7",
    "192.0.2.7:443": "192.0.2.7:443",
    "10.1.0.0/16": "10.1.0.0/16",
    "10.1.0.0/16:5000": "10.1.0.0/16:5000",
    "0.0.0.0/0": "0.0.0.0/0",
    "2001:db8::/32": "2001:db8::/32",
    "2001:DB8::1": "2001:db8::1",
    "[2001:db8::1]:443": "[2001:db8::1]:443",
    "[2001:db8::1]": "2001:db8::1",
}
# And a word of what is said.
REFUSED = {
    "maybe": "'maybe.' if that is a name",
    "*": "write yes",
    "https://example.org/": "leave out https://",
    "example.org/": "none of these",
    ".example.org": "did you mean *.example.org?",
    "a.*.example.org": "none of these",
    "**.example.org": "none of these",
    "exam ple.org": "none of these",
    "example..org": "none of these",
    "-.example.org": "none of these",
    "example.org:": "none of these",
    "example.org:0": "0 is no port",
    "example.org:65536": "65536 is no port",
    "example.org:https": "none of these",
    "a" * 64 + ".org": "none of these",
    ("a" * 60 + ".") * 5 + "org": "none of these",
    "10.1.2.3/16": "write 10.1.0.0/16, or 10.1.2.3 alone",
    "10.1.0.0/33": "none of these",
    "10.1.0": "no address",
    "300.1.1.1": "no address",
    "0x7f.1": "no address",
    "0x7f000001.": "no address",
    "2130706433": "no address",
    "192.0.2.07": "no address",
    "::ffff:192.0.2.7": "write the IPv4 address alone, 192.0.2.7",
    "::ffff:127.0.0.1": "write the IPv4 address alone, 127.0.0.1",
    "127.0.0.1": "host_ports",
    "127.8.0.0/16": "host_ports",
    "169.254.169.254": "link-local",
    "169.254.0.0/16:80": "link-local",
    "fe80::1": "link-local",
    "0.0.0.0": "host_ports",
    "[::1]:80": "host_ports",
    "224.0.0.0/8": "host_ports",
    "localhost": "host_ports",
    "db.localhost:5432": "host_ports",
    "": "none of these",
    '["a.example"]': "leave out brackets and quotes",
    "'a.example'": "leave out brackets and quotes",
    "straße.example": "another name than strasse.example",
    "ςα.example": "another name than xn--mxa9a.example",
    "ⓔxample.org": "another name than example.org",
    "example。org:80": "another name than example.org",
    "exa\nmple.org": "none of these",
    "exa\0mple.org": "none of these",
}


@pytest.mark.parametrize("word", WRITTEN)
def test_what_may_be_in_a_list_is_read_and_shown(word):
    assert str(read([word])) == WRITTEN[word]
    assert read(
        [WRITTEN[word]] if "." in WRITTEN[word] or ":" in WRITTEN[word] else [word]
    ) == read([word])


@pytest.mark.parametrize("word", REFUSED)
def test_what_may_not_is_refused_with_what_may(word):
    with pytest.raises(ValueError, match=r"write|host_ports") as caught:
        read([word])
    assert REFUSED[word] in str(caught.value) and repr(word) in str(caught.value)


@given(st.text() | st.from_regex(r"[0-9a-f.:/*\[\]x-]{1,30}", fullmatch=True))
def test_any_word_is_read_or_refused(word):
    said = []
    try:
        said.append(str(read([word])))
    except ValueError as error:
        said.append(str(error))
    assert said[0]


@pytest.mark.parametrize(
    "value",
    [
        "a.example, 10.0.0.0/8 b.example:443", "a.example\nb.example:443\n10.0.0.0/8\n",
        ["10.0.0.0/8", "b.example:443", "a.example"], ("b.example:443", "a.example", "10.0.0.0/8"),
        {"a.example", "b.example:443", ipaddress.ip_network("10.0.0.0/8"), "A.example."},
    ],
)  # fmt: skip
def test_a_list_is_the_same_however_it_is_written(value):
    assert str(parse.reach(value)) == "10.0.0.0/8, a.example, b.example:443"


def test_an_empty_list_allows_nothing_and_is_no_no():
    assert parse.reach([]) == Destinations() and str(Destinations()) == "(nothing)"


@pytest.mark.parametrize(
    "value", ["", " ", ",", "yess", ["yes"], [True], [80], [b"a.example"], ["a b"], 3.5, {"a.b": 1}]
)
def test_what_is_neither_word_nor_list_is_refused(value):
    with pytest.raises((ValueError, TypeError), match="write yes, no, or a list"):
        parse.reach(value)


@pytest.mark.parametrize(
    ("word", "meant"), [("yes", True), ("Off", False), (1, True), ("0", False)]
)
def test_yes_and_no_stay_what_they_are(word, meant):
    assert parse.reach(word) is meant


@pytest.mark.parametrize(
    ("entry", "name", "listed"),
    [
        ("example.org", "example.org.", True), ("example.org", "EXAMPLE.org", True),
        ("example.org", "a.example.org.", False), ("example.org", "badexample.org", False),
        ("example.org", "example.org.evil.example", False), ("*.example.org", "example.org", False),
        ("*.example.org", "a.example.org", True), ("*.example.org", "a.b.example.org.", True),
        ("*.example.org", "badexample.org", False), ("192.0.2.7", "192.0.2.7", False),
        # As DNS writes a dot that is part of a label: these are names below org.
        ("*.example.org", r"evil\.example.org.", False), ("example.org", r"example\.org.", False),
        ("*.example.org", r"a\.b.example.org.", False), ("*.example.org", r"a.example\.org", False),
        ("*.example.org", r"example.org\.", False), ("*.example.org", r"\000.example.org", False),
    ],
)  # fmt: skip
def test_a_name_is_listed_by_itself_or_by_what_it_is_below(entry, name, listed):
    assert bool(read([entry]).named(name)) == listed


@pytest.mark.parametrize(
    ("entry", "address", "port", "listed"),
    [
        ("10.1.0.0/16", "10.1.255.255", 80, True), ("10.1.0.0/16", "10.2.0.0", 80, False),
        ("192.0.2.7:443", "192.0.2.7", 443, True), ("192.0.2.7:443", "192.0.2.7", 80, False),
        ("2001:db8::/32", "2001:db8::1", 1, True), ("2001:db8::/32", "32.1.13.184", 1, False),
        ("0.0.0.0/0", "192.0.2.7", 1, True), ("0.0.0.0/0", "2001:db8::1", 1, False),
        ("example.org", "192.0.2.7", 80, False),
    ],
)  # fmt: skip
def test_an_address_is_listed_by_itself_or_by_its_network(entry, address, port, listed):
    assert bool(read([entry]).holding(ipaddress.ip_address(address), port)) == listed
