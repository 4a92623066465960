"""Which files a program needs, and what is remembered of that."""

import json
import os
import shutil
import sys

import pytest

from pytest_vmports.system import program_files, remembered, surroundings


class Host:
    """A program with a library and a folder of data, all outside the system's folders."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.monkeypatch = folder, monkeypatch
        self.asked = 0
        self.ends_well = True
        self.program = folder / "qemu" / "bin" / "program"
        self.library = folder / "lib" / "libone.so"
        self.data = folder / "data"
        self.loader = folder / "ld.so.cache"
        for file in (self.program, self.library, self.loader):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"\x7fELF {file.name}")
        self.data.mkdir()
        self.kept = folder / "kept" / remembered.KIND
        self.kept.parent.mkdir()
        monkeypatch.setattr(remembered, "default_base", self.kept.with_name)
        monkeypatch.setattr(program_files, "LOADER", (str(self.loader),))
        monkeypatch.setattr(program_files, "_said", self._said)
        plain = {k: v for k, v in os.environ.items() if not k.startswith(("LD_", "GLIBC_"))}
        monkeypatch.setattr(surroundings, "_variables", plain)

    def _said(self, command, **variables):
        self.asked += 1
        if variables:
            return [
                f"\tlibone.so => {self.library} (0x00007f)",
                "\tlinux-vdso.so.1 (0x00007f)",
            ], True
        assert command[1:] == ["-L", "help"]
        return [str(self.data)], self.ends_well

    def needed(self):
        """Return what another process of this user would say."""
        program_files.needed_by.cache_clear()
        try:
            return {*program_files.needed_by(str(self.program), asks=True)}
        finally:
            program_files.needed_by.cache_clear()

    def file(self):
        (file,) = self.kept.iterdir()
        return file


@pytest.fixture
def host(tmp_path, monkeypatch):
    return Host(tmp_path, monkeypatch)


def test_what_a_program_needs_is_asked_by_the_first_process_alone(host):
    found = host.needed()
    assert host.asked == 2
    assert {host.program, host.library, host.data, host.loader} <= found
    assert host.needed() == found
    assert host.asked == 2


def new_program(host):
    host.program.write_text("\x7fELF another")


def another_in_its_place(host):
    facts = host.library.stat()
    host.library.rename(host.library.with_name("before"))
    shutil.copyfile(host.library.with_name("before"), host.library)
    os.utime(host.library, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def no_library(host):
    host.library.unlink()


def library_is_a_link_elsewhere(host):
    host.library.unlink()
    host.library.symlink_to(host.program)


def other_libraries_are_known(host):
    host.loader.write_text("another cache")


def no_cache_of_the_loader(host):
    host.loader.unlink()


def firmware_is_a_link_now(host):
    (host.data / "bios.bin").symlink_to(host.loader)


CHANGES = [
    new_program, another_in_its_place, no_library, library_is_a_link_elsewhere,
    other_libraries_are_known, no_cache_of_the_loader, firmware_is_a_link_now,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda one: one.__name__)
def test_what_has_changed_is_asked_anew(host, change):
    host.needed()
    change(host)
    again = host.needed()
    assert host.asked == 4
    assert (host.loader in again) is host.loader.exists()
    assert host.needed() == again
    assert host.asked == 4


def test_each_program_has_an_answer_of_its_own(host):
    found = host.needed()
    other = host.folder / "other"
    other.write_text("\x7fELF")
    program_files.needed_by.cache_clear()
    assert host.program not in program_files.needed_by(str(other), asks=True)
    assert host.needed() == found
    assert host.asked == 4


@pytest.mark.parametrize("name", ["LD_LIBRARY_PATH", "LD_PRELOAD", "GLIBC_TUNABLES"])
def test_what_variables_lead_the_loader_to_is_never_remembered(host, name):
    host.needed()
    host.monkeypatch.setitem(surroundings._variables, name, "/x")
    assert host.library in host.needed()
    assert host.asked == 4
    host.needed()
    assert host.asked == 6


def test_what_was_not_said_to_the_end_is_not_remembered(host):
    host.ends_well = False
    assert {host.library, host.data} <= host.needed()
    host.ends_well = True
    host.needed()
    assert host.asked == 4


SECRET = "/etc/shadow"


def forged(host, text=None):
    """Write an answer that opens more than the program does with."""
    kept = json.loads(host.file().read_text())
    state = remembered._state(SECRET)
    kept["found"].append([SECRET, SECRET, state])
    host.file().write_text(json.dumps(kept) if text is None else text)


def file_of_anybody(host):
    forged(host)
    host.file().chmod(0o666)


def file_of_a_group(host):
    forged(host)
    host.file().chmod(0o620)


def folder_of_anybody(host):
    forged(host)
    host.kept.chmod(0o777)


def link_in_the_files_place(host):
    forged(host)
    file = host.file()
    file.rename(host.folder / "elsewhere")
    file.symlink_to(host.folder / "elsewhere")


def link_in_the_folders_place(host):
    forged(host)
    host.kept.rename(host.folder / "elsewhere")
    host.kept.symlink_to(host.folder / "elsewhere")


def fifo_in_the_files_place(host):
    file = host.file()
    file.unlink()
    os.mkfifo(file, 0o600)


def damaged(text):
    return lambda host: forged(host, text)


NOT_BELIEVED = {
    "a file of anybody's": file_of_anybody,
    "a file of a group's": file_of_a_group,
    "a folder of anybody's": folder_of_anybody,
    "a link in the file's place": link_in_the_files_place,
    "a link in the folder's place": link_in_the_folders_place,
    "a fifo": fifo_in_the_files_place,
    "nothing": damaged(""),
    "no JSON": damaged("\0" * 100),
    "a list": damaged("[]"),
    "another version's": damaged('{"version": 2}'),
    "nested too deep": damaged('{"found":' + "[" * 100_000),
    "no rows": damaged('{"found": [1]}'),
    "no names": damaged('{"found": [[[], 1, 2]]}'),
    "too long": damaged(" " * (2 << 20) + "{}"),
}


@pytest.mark.parametrize("how", NOT_BELIEVED)
def test_what_another_could_have_written_or_is_damaged_is_not_believed(host, how):
    found = host.needed()
    NOT_BELIEVED[how](host)
    assert host.needed() == found
    assert host.asked == 4


def test_rows_that_are_no_names_are_not_believed(host):
    found = host.needed()
    kept = json.loads(host.file().read_text())
    for row in (
        [1, "/x", None],
        ["/x\0", "/x", None],
        ["/nowhere", 5, None],
        ["/x", None, None],
        7,
    ):
        host.file().write_text(json.dumps({**kept, "found": [*kept["found"], row]}))
        before = host.asked
        assert host.needed() == found, row
        assert host.asked == before + 2, row


def test_where_nothing_can_be_kept_each_process_asks(host):
    shutil.rmtree(host.kept.parent)
    host.kept.parent.write_text("no folder")
    assert {host.library, host.data} <= host.needed()
    host.needed()
    assert host.asked == 4


def test_a_full_disk_leaves_nothing_and_each_process_asks(host):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    with host.monkeypatch.context() as patched:
        patched.setattr(remembered.json, "dump", full)
        host.needed()
    assert [*host.kept.iterdir()] == []
    host.needed()
    assert host.asked == 4


def test_a_real_programs_answer_is_the_same_when_it_is_remembered(missing, tmp_path, monkeypatch):
    if not sys.platform.startswith("linux"):
        missing("a loader that tells of libraries", "use Linux")
    monkeypatch.setattr(remembered, "default_base", lambda kind: tmp_path / kind)
    program = tmp_path / "program"  # so that it is none of the system's
    shutil.copyfile(shutil.which("cat"), program)
    program.chmod(0o755)

    def needed():
        program_files.needed_by.cache_clear()
        return program_files.needed_by(str(program))

    found = needed()
    (kept,) = (tmp_path / remembered.KIND).iterdir()
    assert "libc" in kept.read_text()
    with monkeypatch.context() as patched:
        patched.setattr(program_files, "_said", None)
        assert needed() == found
