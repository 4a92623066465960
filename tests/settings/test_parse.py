"""Each reader: what it takes, and that it says what is allowed."""

import pathlib

import pytest

from pytest_vmports import Guest, PortMapping
from pytest_vmports.settings import guests, parse
from pytest_vmports.settings.wait_for import WaitFor

A_GUEST = Guest(name="of a module", kernel_path=pathlib.Path("kernel"))
NO_GUEST = "text"
HERE = pathlib.Path.cwd()
cpus = parse.whole(1, 255)
color = parse.choice("red", "green")
or_always = parse.yes_no_or("always")


def a_function():
    return A_GUEST


@pytest.mark.parametrize(
    ("read", "raw", "value"),
    [
        (parse.boolean, True, True),
        (parse.boolean, False, False),
        (parse.boolean, "Yes", True),
        (parse.boolean, " on ", True),
        (parse.boolean, 1, True),
        (parse.boolean, "0", False),
        (parse.boolean, "no", False),
        (parse.boolean, "false", False),
        (or_always, True, True),
        (or_always, " no ", False),
        (or_always, "Always", "always"),
        (color, "red", "red"),
        (cpus, 1, 1),
        (cpus, " 255 ", 255),
        (parse.memory, 256, 256),
        (parse.memory, "64", 64),
        (parse.memory, "256M", 256),
        (parse.memory, "256 MiB", 256),
        (parse.memory, "1G", 1024),
        (parse.memory, "2g", 2048),
        (parse.seconds, 30, 30.0),
        (parse.seconds, "0.5", 0.5),
        (parse.text, "", ""),
        (parse.text, " words ", " words "),
        (parse.text_or_none, "", None),
        (parse.text_or_none, " \n", None),
        (parse.path, " ", None),
        (parse.words, "\na=b\nc='d e'", " a=b c='d e'"),
        (parse.words, ["a=b\nc", "d"], "a=b c d"),
        (parse.path, " a ", f"{HERE}/ a "),
        (parse.network_name, "1", "1"),
        (parse.seconds, 10**8, 1e8),
        (parse.text_or_none, None, None),
        (parse.text_or_none, "a", "a"),
        (parse.text_or_none, pathlib.Path("/a/b"), "/a/b"),
        (parse.files, None, {}),
        (parse.files, "", {}),
        (parse.files, {"a": "/b"}, {f"{HERE}/a": "/b"}),
        (parse.files, {pathlib.Path("a"): pathlib.PurePosixPath("/b")}, {f"{HERE}/a": "/b"}),
        (parse.files, "a=/b 'with blank=/c d'", {f"{HERE}/a": "/b", f"{HERE}/with blank": "/c d"}),
        (parse.ipv4, "127.0.0.1", "127.0.0.1"),
        (parse.ipv4, "0.0.0.0", "0.0.0.0"),
        (parse.port_range, None, None),
        (parse.port_range, "20000-30000", (20000, 30000)),
        (parse.port_range, " 1024 - 1024 ", (1024, 1024)),
        (parse.ports, None, ()),
        (parse.ports, "", ()),
        (parse.ports, [], ()),
        (parse.ports, "80/udp", (PortMapping(internal=80, protocol="udp"),)),
        (parse.ports, 80, (PortMapping(internal=80),)),
        (parse.ports, PortMapping(internal=80), (PortMapping(internal=80),)),
        (parse.ports, "80, 81,82 ", tuple(PortMapping(internal=p) for p in (80, 81, 82))),
        (parse.ports, [80, "81"], (PortMapping(internal=80), PortMapping(internal=81))),
        (guests.guest, "alpine", "alpine"),
        (guests.guest, A_GUEST, A_GUEST),
        (guests.guest, "images/web.qcow2", f"{HERE}/images/web.qcow2"),
        (guests.guest, "web.img", f"{HERE}/web.img"),
        (guests.guest, "./web", f"{HERE}/web"),
        (guests.guest, pathlib.Path("web"), f"{HERE}/web"),
        (guests.guest, a_function, a_function),
        (guests.guest, f"{__name__}:a_function", a_function),
        (parse.wait_for, None, WaitFor("none")),
        (parse.wait_for, "none", WaitFor("none")),
        (parse.wait_for, "any", WaitFor("any")),
        (parse.wait_for, " all ", WaitFor("all")),
        (parse.wait_for, 80, WaitFor("ports", (80,))),
        (parse.wait_for, "80", WaitFor("ports", (80,))),
        (parse.wait_for, "80 443", WaitFor("ports", (80, 443))),
        (parse.wait_for, "80,443", WaitFor("ports", (80, 443))),
        (parse.wait_for, [80, 443], WaitFor("ports", (80, 443))),
        (parse.wait_for, ("80", 443), WaitFor("ports", (80, 443))),
        (parse.wait_for, "8080/health?deep=1", WaitFor("http", (8080,), "/health?deep=1")),
        (parse.wait_for, "8080/", WaitFor("http", (8080,), "/")),
        (parse.wait_for, WaitFor("all"), WaitFor("all")),
    ],
)
def test_a_good_value_is_read(read, raw, value):
    found = read(raw)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("read", "raw", "allowed"),
    [
        (parse.boolean, "maybe", "write yes or no"),
        (or_always, "maybe", "write yes, no or always"),
        (or_always, None, "write yes, no or always"),
        (parse.boolean, "", "write yes or no"),
        (parse.boolean, None, "write yes or no"),
        (parse.boolean, 2, "write yes or no"),
        (color, "blue", "write one of red, green"),
        (color, ["red"], "write one of red, green"),
        (color, None, "write one of red, green"),
        (cpus, 0, "write a whole number from 1 to 255"),
        (cpus, 256, "write a whole number from 1 to 255"),
        (cpus, "two", "write a whole number from 1 to 255"),
        (cpus, 1.5, "write a whole number from 1 to 255"),
        (cpus, True, "write a whole number from 1 to 255"),
        (parse.memory, 63, "from 64 up"),
        (parse.memory, "1T", "from 64 up"),
        (parse.memory, 10**30, "up to 1099511627776"),
        (parse.memory, "", "from 64 up"),
        (parse.memory, -256, "from 64 up"),
        (parse.memory, True, "from 64 up"),
        (parse.seconds, 0, "positive number of seconds"),
        (parse.seconds, -1, "positive number of seconds"),
        (parse.seconds, "inf", "positive number of seconds"),
        (parse.seconds, "nan", "positive number of seconds"),
        (parse.seconds, 1e300, "up to 100000000"),
        (parse.files, "a=/b, c=/d", "blanks between the pairs, and no commas"),
        (parse.network_name, "yes", "allow_network"),
        (parse.network_name, "No", "allow_network"),
        (parse.ports, b"80", "80"),
        (parse.seconds, "soon", "positive number of seconds"),
        (parse.seconds, None, "positive number of seconds"),
        (parse.seconds, True, "positive number of seconds"),
        (parse.text, None, "write a text"),
        (parse.text_or_none, 3, "write a text"),
        (parse.files, "app.conf", "like {"),
        (parse.files, "app.conf=relative", "absolute guest path"),
        (parse.files, {"a": "/b/../../c"}, "absolute guest path"),
        (parse.files, "=/b", "host path"),
        (parse.files, [3], "write a mapping"),
        (parse.files, {"a\0b": "/b"}, "without a NUL"),
        (parse.files, {"a": "/b\0"}, "absolute guest path"),
        (parse.text, "half \ud800", "write a text; '\\ud800' is none"),
        (parse.files, 3, "write a mapping"),
        (parse.ipv4, "localhost", "write an IPv4 address"),
        (parse.ipv4, "::1", "write an IPv4 address"),
        (parse.ipv4, 127, "write an IPv4 address"),
        (parse.ipv4, None, "write an IPv4 address"),
        (parse.port_range, "20000", "write first-last"),
        (parse.port_range, "30000-20000", "write first-last"),
        (parse.port_range, "80-90", "within 1024-65535"),
        (parse.port_range, "20000-70000", "within 1024-65535"),
        (parse.ports, 0, "guest port 0"),
        (parse.ports, "80 http", "'http' is not a port"),
        (parse.ports, {"80": 80}, "is not a port"),
        (parse.ports, True, "is not a port"),
        (guests.guest, "debian", "write alpine, alpine-disk, the name"),
        (guests.guest, None, "write alpine, alpine-disk, the name"),
        (guests.guest, "no_such_module:guest", "no_such_module:guest cannot be loaded"),
        (guests.guest, f"{__name__}:ABSENT", "cannot be loaded"),
        (guests.guest, f"{__name__}:NO_GUEST", "is a str"),
        (guests.guest, Guest, "is a type"),
        (parse.wait_for, "", "write any, all, none"),
        (parse.wait_for, [], "write any, all, none"),
        (parse.wait_for, "soon", "write any, all, none"),
        (parse.wait_for, {"80": 1}, "write any, all, none"),
        (parse.wait_for, True, "write any, all, none"),
        (parse.wait_for, ["80/udp"], "write any, all, none"),
        (parse.wait_for, "0", "guest port 0 is not within 1 to 65535"),
        (parse.wait_for, "99999/health", "guest port 99999 is not within 1 to 65535"),
    ],
)
def test_a_wrong_value_is_told_with_what_is_allowed(read, raw, allowed):
    with pytest.raises((ValueError, TypeError)) as caught:
        read(raw)
    assert allowed in str(caught.value)


def test_a_guest_of_a_module_is_found_by_name(monkeypatch, tmp_path):
    (tmp_path / "my_guests.py").write_text(
        "from pathlib import Path\n"
        "from pytest_vmports import Guest\n"
        "class Set:\n    small = Guest(name='small', kernel_path=Path('k'))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert guests.guest("my_guests:Set.small").name == "small"


def test_a_guest_module_that_misses_its_image_is_told_before_any_test_runs(monkeypatch, tmp_path):
    (tmp_path / "absent_guest.py").write_text(
        "from pytest_vmports import Guest\nguest = Guest.disk('/absent.qcow2')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"cannot be loaded: .*/absent\.qcow2 does not exist"):
        guests.guest("absent_guest:guest")
