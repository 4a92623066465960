"""A saved guest packed for another machine: it comes out as it went in, or not at all."""

from __future__ import annotations

import io
import json
import os
import struct
import tarfile

import pytest

from pytest_vmports.pool import packed
from pytest_vmports.pool.packed import PackError, Wanted, contents_of, pack, unpack
from pytest_vmports.pool.template_store import TemplateStore
from pytest_vmports.system.digests import digest_now
from pytest_vmports.system.stored import files_of

FACTS = {"name": "guest", "memory": 256, "list": [1, ["a", None]]}
MIB = 1 << 20
SECRET, OTHER = b"0123456789abcdef", b"fedcba9876543210"


def fill(folder):
    with (folder / "ram").open("wb") as ram:
        ram.write(os.urandom(70_000))
        ram.seek(8 * MIB)
        ram.write(b"x")
        ram.truncate(16 * MIB)
    (folder / "state").write_bytes(b"state")
    (folder / "console").write_text("said while booting\n")
    (folder / "clock").write_text("1.5")
    (folder / "ssh_key").write_text("secret")


@pytest.fixture
def template(saved_guest):
    """A saved guest, as a store has it."""
    return saved_guest(FACTS, fill)


@pytest.fixture
def target(tmp_path):
    """An empty folder."""
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


def packed_of(template, secret=None):
    out = io.BytesIO()
    pack(template, out, secret)
    return out.getvalue()


def made(manifest=None, members=(), signature=None):
    """Return a packed one of any content."""
    out = io.BytesIO()
    with (
        packed._zstd().ZstdFile(out, "wb") as file,
        tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        if manifest is not None:
            text = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
            packed._add(tar, packed.MANIFEST, text)
        if signature is not None:
            packed._add(tar, packed.SIGNATURE, signature)
        for name, content in members:
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
            else:
                packed._add(tar, name, content)
    return out.getvalue()


def test_it_comes_out_as_it_went_in_and_its_holes_take_no_room(template, target):
    unpack(io.BytesIO(packed_of(template)), target, Wanted(TemplateStore.key(FACTS)))
    assert {file.name for file in target.iterdir()} == {
        "ram",
        "state",
        "console",
        "clock",
        "ssh_key",
    }
    for file in target.iterdir():
        assert digest_now(file) == digest_now(template.folder / file.name)
        assert file.stat().st_mode & 0o777 == 0o600
    assert (target / "ram").stat().st_size == 16 * MIB
    assert (target / "ram").stat().st_blocks * 512 < 2 * MIB


def test_what_it_says_of_itself_is_read_without_its_files(template):
    whole = packed_of(template)
    contents = contents_of(io.BytesIO(whole), Wanted())
    assert contents.key == TemplateStore.key(FACTS) and contents.facts == FACTS
    assert contents.files["ram"].size == 16 * MIB


@pytest.mark.parametrize("secret", [None, SECRET])
def test_one_that_was_signed_is_read_with_its_secret_or_by_who_asks_for_none(
    template, target, secret
):
    unpack(io.BytesIO(packed_of(template, SECRET)), target, Wanted(secret=secret))
    assert (target / "state").read_bytes() == b"state"


@pytest.mark.parametrize(
    ("by", "words"), [(None, "not signed"), (OTHER, "signed with another secret")]
)
def test_one_of_who_has_not_the_secret_is_not_believed(template, target, by, words):
    with pytest.raises(PackError, match=words):
        unpack(io.BytesIO(packed_of(template, by)), target, Wanted(secret=SECRET))
    assert not [*target.iterdir()]


def test_a_cut_at_any_place_is_noticed(template, target):
    whole = packed_of(template)
    for at in {0, 1, 5, len(whole) // 2, len(whole) - 100, len(whole) - 1}:
        with pytest.raises(PackError, match=r"cut, or none|missing"):
            unpack(io.BytesIO(whole[:at]), target, Wanted())
        for file in target.iterdir():
            file.unlink()


def test_a_byte_that_has_changed_is_noticed_wherever_it_counts(template, target):
    whole = bytearray(packed_of(template))
    right = {path.name: digest_now(path) for path in files_of(template.folder)}
    noticed = 0
    for at in range(3, len(whole), max(1, len(whole) // 50)):
        whole[at] ^= 0x40
        try:
            unpack(io.BytesIO(bytes(whole)), target, Wanted())
        except PackError:
            noticed += 1
        else:  # of a header's owner, or of what fills a block
            assert {path.name: digest_now(path) for path in target.iterdir()} == right
        whole[at] ^= 0x40
        for file in target.iterdir():
            file.unlink()
    assert noticed > 40


PARTS = {"ram": b"r" * 10, "state": b"s", "console": b"c", "clock": b"1"}


def manifest_of(target, parts=None, **changes):
    files = {}
    for name, content in (PARTS if parts is None else parts).items():
        (target / "measured").write_bytes(content)
        files[name] = [len(content), digest_now(target / "measured"), [[0, 0]]]
    (target / "measured").unlink(missing_ok=True)
    whole = {
        "format": 1, "key": TemplateStore.key(FACTS), "facts": FACTS, "signed": False,
        "files": files,
    }  # fmt: skip
    return {**whole, **changes}


def with_ram(target, size, pieces):
    whole = manifest_of(target)
    whole["files"]["ram"] = [size, whole["files"]["ram"][1], pieces]
    return whole


def test_one_that_was_made_by_hand_is_read(target):
    unpack(io.BytesIO(made(manifest_of(target), PARTS.items())), target, Wanted())
    assert (target / "ram").read_bytes() == b"r" * 10


def link(name):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return info


def qcow2(features=0):
    head = struct.pack(">4sIQIIQ", b"QFI\xfb", 3, 0, 0, 16, MIB)
    return (head.ljust(72, b"\0") + struct.pack(">QQQII", features, 0, 0, 4, 104)).ljust(512, b"\0")


ODD = {
    "no manifest": lambda t: made(None, PARTS.items()),
    "a manifest that is none": lambda t: made(b"[]", PARTS.items()),
    "a manifest that nests": lambda t: made(b"[" * 100_000, PARTS.items()),
    "a large manifest": lambda t: made(b" " * (2 * MIB), PARTS.items()),
    "another format": lambda t: made(manifest_of(t, format=2), PARTS.items()),
    "facts of another": lambda t: made(manifest_of(t, facts={"name": "x"}), PARTS.items()),
    "facts that are none": lambda t: made(manifest_of(t, facts=[1]), PARTS.items()),
    "files that are none": lambda t: made(manifest_of(t, files=["ram"]), PARTS.items()),
    "a negative size": lambda t: made(with_ram(t, -1, []), PARTS.items()),
    "pieces behind its end": lambda t: made(with_ram(t, 10, [[0, 0], [1, 1]]), PARTS.items()),
    "pieces in no order": lambda t: made(with_ram(t, 3 * MIB, [[2, 2], [0, 0]]), PARTS.items()),
    "a piece twice": lambda t: made(with_ram(t, 10, [[0, 0], [0, 0]]), PARTS.items()),
    "pieces from the last to the first": lambda t: made(
        with_ram(t, 3 * MIB, [[2, 0]]), PARTS.items()),
    "pieces that are none": lambda t: made(with_ram(t, 10, 7), PARTS.items()),
    "no pieces": lambda t: made(with_ram(t, 10, []), PARTS.items()),
    "more pieces than there is memory": lambda t: made(
        with_ram(t, 1 << 60, [[0, 1 << 40]]), PARTS.items()),
    "no memory": lambda t: made(manifest_of(t, {"state": b"s"}), [("state", b"s")]),
    "a file of another name": lambda t: made(
        manifest_of(t, parts := {**PARTS, "../../.bashrc": b"x"}), parts.items()),
    "the store's own file": lambda t: made(
        manifest_of(t, parts := {**PARTS, "manifest.json": b"{}"}), parts.items()),
    "a file that is not said": lambda t: made(
        manifest_of(t), [*PARTS.items(), ("ssh_key", b"x")]),
    "a file twice": lambda t: made(manifest_of(t), [*PARTS.items(), ("ram", b"x")]),
    "another order": lambda t: made(manifest_of(t), reversed(PARTS.items())),
    "a link": lambda t: made(manifest_of(t), [("ram", link("ram")), *PARTS.items()]),
    "more than it says": lambda t: made(manifest_of(t), {**PARTS, "ram": b"r" * 11}.items()),
    "other content": lambda t: made(manifest_of(t), {**PARTS, "ram": b"R" * 10}.items()),
    "a signature of nobody": lambda t: made(manifest_of(t, signed=True), PARTS.items()),
    "a disk elsewhere": lambda t: made(
        manifest_of(t, parts := {**PARTS, "root.qcow2": qcow2(1 << 2)}), parts.items()),
    "a disk that is none": lambda t: made(
        manifest_of(t, parts := {**PARTS, "root.qcow2": b"QFI"}), parts.items()),
}  # fmt: skip


@pytest.mark.parametrize("what", ODD)
def test_whatever_is_odd_about_it_is_told_and_nothing_else_is_written(tmp_path, target, what):
    with pytest.raises(PackError) as got:
        unpack(io.BytesIO(ODD[what](target)), target, Wanted())
    assert str(got.value) and "\n" not in str(got.value)
    assert {file.name for file in target.iterdir()} <= {*PARTS, "root.qcow2"}
    assert {path.name for path in tmp_path.iterdir()} == {"target"}


def test_one_of_another_name_is_not_taken(template, target):
    with pytest.raises(PackError, match="another one"):
        unpack(io.BytesIO(packed_of(template)), target, Wanted("0" * 24))


def test_one_that_unpacks_to_more_than_may_be_is_refused_before_it_does(template, target):
    with pytest.raises(PackError, match="larger than all may be"):
        unpack(io.BytesIO(packed_of(template)), target, Wanted(most=8 * MIB))
    assert not [*target.iterdir()]
