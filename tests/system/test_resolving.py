"""What this host is told of names."""

from __future__ import annotations

import pytest

from pytest_vmports.system import resolving


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Return the folder of both files; there is neither yet."""
    monkeypatch.setattr(resolving, "_texts", {})
    monkeypatch.setattr(resolving, "RESOLV_CONF", str(tmp_path / "resolv.conf"))
    monkeypatch.setattr(resolving, "HOSTS", str(tmp_path / "hosts"))
    return tmp_path


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("nameserver 10.0.0.1\n", ["10.0.0.1"]),
        ("# nameserver 1.1.1.1\n;nameserver 2.2.2.2\nnameserver\t10.0.0.1 # ours\n", ["10.0.0.1"]),
        ("nameserver fd00::1%eth0\nnameserver FD00::2\n", ["fd00::1", "fd00::2"]),
        ("nameserver one\nnameserver 10.0.0.1\n", ["10.0.0.1"]),
        ("nameserver 10.0.0.1\n" * 5, ["10.0.0.1"] * 3),
        ("nameserver 127.0.0.53\noptions edns0\n", ["127.0.0.53"]),
        ("search example.org\n", ["127.0.0.1", "::1"]),
        ("nameserver\n", ["127.0.0.1", "::1"]),
        ("", ["127.0.0.1", "::1"]),
    ],
)
def test_name_servers_are_those_that_gvproxy_asks(files, text, servers):
    (files / "resolv.conf").write_text(text)
    assert resolving.name_servers() == servers


def test_a_link_local_one_is_asked_behind_its_interface(files):
    (files / "resolv.conf").write_text("nameserver FE80::1%eth0\nnameserver 10.0.0.1\n")
    assert resolving.name_servers(zones=True) == ["fe80::1%eth0", "10.0.0.1"]


def test_without_the_file_they_are_on_the_loopback(files):
    assert resolving.name_servers() == ["127.0.0.1", "::1"]


def test_a_link_is_followed_and_what_was_read_last_holds_when_the_file_has_gone(files):
    (files / "stub").write_text("nameserver 10.0.0.1\n")
    (files / "resolv.conf").symlink_to("stub")
    assert resolving.name_servers() == ["10.0.0.1"]
    (files / "stub").write_text("nameserver 10.0.0.2\n")
    assert resolving.name_servers() == ["10.0.0.2"]
    (files / "stub").unlink()
    assert resolving.name_servers() == ["10.0.0.2"]


def test_names_of_the_hosts_own_are_pairs(files):
    (files / "hosts").write_text(
        "# a list\n127.0.0.1 localhost\n10.0.0.1 db db.internal # x\nno db\n"
    )
    assert resolving.known_names() == [
        ("localhost", "127.0.0.1"), ("db", "10.0.0.1"), ("db.internal", "10.0.0.1"),
    ]  # fmt: skip
