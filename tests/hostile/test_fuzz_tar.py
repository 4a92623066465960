"""Archives like those of a real tar, changed a little: files below the target, or an error."""

from __future__ import annotations

import io
import os
import shutil
import stat
import tarfile
from random import Random

import pytest
from tars import BLOCK, END, Guest, extended, file, folder, head, patched
from trees import lay, picture

from pytest_vmports.errors import VmPortsError
from pytest_vmports.vm.inside import copying
from pytest_vmports.vm.inside.archive import Archive

SEED = os.environ.get("VMPORTS_FUZZ_SEED", "0")
COUNT = int(os.environ.get("VMPORTS_FUZZ_COUNT", "10000"))
LIMIT = 1 << 20
# Where a header's fields are, and how long.
FIELDS = [
    (0, 100), (100, 8), (108, 8), (116, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 6),
    (263, 2), (329, 8), (337, 8), (345, 155), (386, 12), (398, 12), (482, 1), (483, 12),
]  # fmt: skip
WORDS = [
    b"", b"\0", b"6755", b"-1", b"-7", b"7" * 11, b"1_0", b" 10 ", b"0x10", b"nan", b"\xff" * 12,
    b"\x80" * 12,
    b"\x80" + b"\xff" * 11, b"\xff" + bytes(11), b"\x80" + bytes(3) + b"\x7f" * 8, b"\xb2\xb3",
    b"9" * 12,
    b"00000000000", b"00000001000", b"00000100000", b"77777777777", b"00004000000",
]  # fmt: skip
KINDS = [bytes([kind]) for kind in b"0\x001234567LKxgXSDMNV~Z\xff"]
NAMES = [
    b"app", b"app/", b"app/a", b"app/a/b", b"app/link", b"app/link/x", b"app/../x", b"../x",
    b"..", b"",
    b".", b"/", b"/app", b"./app/./a//", b"app/a\0b", b"app/" + b"d/" * 40, b"app/" + b"x" * 96,
    b"app/\xff\xfe", b"../../precious/x", b"app/..", b"app/a/..", b"app/A", b"app/up/precious/x",
]  # fmt: skip
RECORDS = [
    {"path": "app/long"}, {"path": "../x"}, {"path": "app/link/x"}, {"path": ""}, {"path": "a\0b"},
    {"linkpath": "../../precious"}, {"linkpath": ""}, {"size": "5"}, {"size": "-1"},
    {"size": "9" * 30},
    {"size": "512"}, {"mtime": "1e999"}, {"mtime": "nan"}, {"mtime": "-5.5"}, {"mtime": "x"},
    {"a": "b"},
    {"GNU.sparse.major": "1"}, {"GNU.sparse.size": "1" * 15}, {"path": "app/" + "d" * 5000},
    {"path": "app/" + "d/" * 3000}, {"hdrcharset": "BINARY", "path": "app/\udcff"},
]  # fmt: skip
BROKEN_RECORDS = [
    b"", b"\n", b"0 a=\n", b"5 a=\n" * 9, b"-3 a=b\n", b"9" * 400, b"7 a=b\n", b"6 a=b\n6 c=d",
    b"\0" * 20,
    b"11 path=app", b"x path=a\n", b"1000000 path=app\n", b"13 path=a\0b/c\n",
]  # fmt: skip


def real(how):
    """Return an archive that Python's tar makes of files of all kinds."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=how) as archive:
        for name, kind, target in [
            ("app", tarfile.DIRTYPE, ""), ("app/a", tarfile.DIRTYPE, ""), ("app/a/b", b"0", ""),
            ("app/link", tarfile.SYMTYPE, "../../precious"), ("app/up", tarfile.SYMTYPE, "../.."),
            ("app/two", tarfile.LNKTYPE, "app/a/b"), ("app/pipe", tarfile.FIFOTYPE, ""),
            ("app/" + "l" * 120, b"0", ""), ("app/ä", tarfile.SYMTYPE, "t" * 120),
            ("app/three", tarfile.LNKTYPE, "app/link"),
        ]:  # fmt: skip
            one = tarfile.TarInfo(name)
            one.type, one.linkname, one.mode, one.mtime = kind, target, 0o755, 1e9 + 0.5
            one.size = 700 if kind == b"0" else 0
            archive.addfile(one, io.BytesIO(b"content" * 100))
    return packed.getvalue()


def blocks(data):
    return [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]


SAMPLES = [
    *[blocks(real(how).rstrip(b"\0")) for how in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)],
    blocks(folder() + file("app/a") + head("app/link", tarfile.SYMTYPE, linkname="../..")),
    blocks(file()),
]
SAMPLES = [[block.ljust(BLOCK, b"\0") for block in sample] for sample in SAMPLES]


def mutated(random):
    """Return an archive that differs from a real one here and there; most sums are right."""
    archive = list(random.choice(SAMPLES))
    for _ in range(random.choice((1, 1, 2, 3, 5))):
        random.choice(CHANGES)(random, archive)
    data = b"".join(archive)
    if data and random.random() < 0.05:
        return data[: random.randrange(len(data) + 1)]
    return data + (END if random.random() < 0.9 else random.randbytes(700))


def headed(random, archive):
    """Return where a block is, a header if there is one."""
    heads = [at for at, block in enumerate(archive) if block[257:262] == b"ustar"]
    return random.choice(heads or range(len(archive)))


def change_field(random, archive):
    at = headed(random, archive)
    field, width = random.choice(FIELDS)
    word = random.choice((*WORDS, *NAMES, random.randbytes(width)))
    archive[at] = patched(archive[at], field, word.ljust(width, b"\0")[:width])


def change_name(random, archive):
    at = headed(random, archive)
    field = random.choice((0, 157))
    archive[at] = patched(archive[at], field, random.choice(NAMES).ljust(100, b"\0")[:100])


def change_kind(random, archive):
    at = headed(random, archive)
    archive[at] = patched(archive[at], 156, random.choice(KINDS))


def change_order(random, archive):
    at, other = random.randrange(len(archive)), random.randrange(len(archive))
    archive[at], archive[other] = archive[other], archive[at]


def take_out(random, archive):
    if len(archive) > 1:
        del archive[random.randrange(len(archive))]


def say_twice(random, archive):
    archive.insert(random.randrange(len(archive) + 1), random.choice(archive))


def put_before(random, archive):
    """Put a header before another, that says more of it."""
    if random.random() < 0.3:
        name = random.choice(NAMES) * random.choice((1, 1, 50))
        more = head("long", random.choice((b"L", b"K")), len(name)) + name.ljust(BLOCK, b"\0")
    else:
        broken = random.random() < 0.4
        records = random.choice(BROKEN_RECORDS if broken else RECORDS)
        more = extended(records, random.choice((b"x", b"x", b"g", b"X")))
    archive[(at := random.randrange(len(archive))) : at] = blocks(more)


def change_bytes(random, archive):
    at = random.randrange(len(archive))
    block = bytearray(archive[at])
    for _ in range(random.choice((1, 2, 8))):
        block[random.randrange(len(block))] = random.randrange(256)
    archive[at] = bytes(block)


CHANGES = [
    change_field, change_field, change_field, change_name, change_name, change_kind, change_kind,
    change_order, take_out, say_twice, put_before, put_before, change_bytes,
]  # fmt: skip


@pytest.fixture
def place(tmp_path):
    """Return a folder to copy into, with things of the host beside it."""
    lay(tmp_path / "precious", {b"x": b"mine", b"deep": {b"y": b"mine"}})
    (tmp_path / "deep" / "out").mkdir(parents=True)
    return tmp_path / "deep" / "out"


@pytest.mark.filterwarnings("ignore::pytest_vmports.errors.GuestFileWarning")
def test_whatever_tar_sends_becomes_files_below_the_target_or_an_error(place, tmp_path):
    random = Random(f"{SEED} vm.get")
    before, taken = picture(tmp_path / "precious"), 0
    for number in range(COUNT):
        if number % 50 == 0:  # until then on top of what the others have left
            shutil.rmtree(place)
            place.mkdir()
        data = mutated(random)
        guest = Guest(*pieces(random, data))
        try:
            copying.get(guest, "/srv/app", place, 60, LIMIT)
            taken += 1
        except VmPortsError:
            pass
        except BaseException as error:
            raise AssertionError(f"archive {number} of seed {SEED}: {error!r}") from error
        assert guest.sent <= len(data)
        if number % 50 == 49:
            assert_harmless(place, number)
            assert sorted(os.listdir(tmp_path)) == ["deep", "precious"], number
            assert os.listdir(place.parent) == ["out"], number
    assert picture(tmp_path / "precious") == before
    assert COUNT // 20 < taken < COUNT  # most are refused, and not all


def pieces(random, data):
    """Return it as it may arrive."""
    size = random.choice((1 << 16, 4096, 4096, 512, 700))
    return [data[at : at + size] for at in range(0, len(data), size)]


def assert_harmless(place, number):
    assert set(os.listdir(place)) <= {"app"}, number
    total = 0
    for folder_, folders, names in os.walk(place):
        for name in (*folders, *names):
            seen = os.lstat(os.path.join(folder_, name))
            kind = stat.S_IFMT(seen.st_mode)
            assert kind in {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK}, (number, name)
            assert kind == stat.S_IFLNK or not seen.st_mode & (stat.S_ISUID | stat.S_ISGID)
            assert seen.st_uid == os.geteuid()
            total += seen.st_size if kind == stat.S_IFREG else 0
    assert total <= 50 * LIMIT


class Counter:
    """Takes entries, and holds them to what they may be."""

    def __init__(self):
        self.entry, self.written = None, 0

    def begin(self, entry):
        assert self.entry is None
        assert entry.size >= 0 and "\0" not in entry.name + entry.target
        assert len(entry.name) <= 4096 and len(entry.target) <= 4096
        assert abs(entry.mtime) < float("inf")
        self.entry, self.written = entry, 0

    def write(self, data):
        self.written += len(data)
        assert self.written <= self.entry.size

    def end(self):
        assert self.written in {0, self.entry.size}
        self.entry = None


def test_however_an_archive_is_cut_into_pieces_it_says_the_same():
    random = Random(f"{SEED} pieces")
    for number in range(COUNT // 5):
        data = mutated(random)
        whole, parts = [], []
        for found, cuts in ((whole, [data]), (parts, pieces(random, data))):
            counter = Counter()
            archive = Archive(counter)
            try:
                for piece in cuts:
                    archive.feed(piece)
                archive.finish()
                found.append("over")
            except (ValueError, tarfile.TarError, OSError) as error:
                found.append((type(error), str(error)))
            found.append(counter.entry)
        assert whole == parts, number
