"""From a name, an address or a file to an image on this host, with a server of its own."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import lzma
import os
import shutil
import subprocess
import sys
import textwrap
import threading

import image_server
import pytest

from pytest_vmports import Guest
from pytest_vmports.errors import FetchError, GuestNotFoundError, HostError, ImageError
from pytest_vmports.guests import source
from pytest_vmports.images import fetch, images, unpack
from pytest_vmports.images.images import Images, Kept
from pytest_vmports.system.architecture import AARCH64, X86_64

# A boot sector, or it would be refused as a file that is no disk.
RAW = bytes(510) + b"\x55\xaa" + os.urandom(200_000) + bytes(3 << 20)
NAME = "debian-13"
FILE = "debian-13-genericcloud-amd64.qcow2"
FOLDER = "/trixie/latest/"
SHA = hashlib.sha256(RAW).hexdigest()


@pytest.fixture
def server():
    with image_server.serving() as server:
        server.files["/disk.raw"] = RAW
        yield server


@pytest.fixture
def said():
    return []


@pytest.fixture
def new(server, tmp_path, said):
    """Return a function that opens the images as another process would."""
    with contextlib.ExitStack() as stack:

        def opened(size=64, folder=tmp_path / "images"):
            mirrors = dict.fromkeys(("debian", "ubuntu", "fedora", "alpine"), server.url)
            opened = Images(Kept(str(folder), size, mirrors), said.append)
            return stack.enter_context(contextlib.closing(opened))

        yield opened


@pytest.fixture(scope="session")
def qcow2(tmp_path_factory, qemu_binary):
    folder = tmp_path_factory.mktemp("images")
    (folder / "disk.raw").write_bytes(RAW)
    convert = ["qemu-img", "convert", "-O", "qcow2", folder / "disk.raw", folder / "disk.qcow2"]
    subprocess.run(convert, check=True)
    return (folder / "disk.qcow2").read_bytes()


def publish(server, content, file=FILE, folder=FOLDER):
    server.files[folder + file] = content
    digest = hashlib.sha512(content).hexdigest()
    server.files[f"{folder}SHA512SUMS"] = f"{'0' * 128}  other.qcow2\n{digest}  {file}\n".encode()


def find(opened, tmp_path, what, architecture=X86_64, *, sha256=None, fresh=False):
    return opened.find(source.read(what, sha256), architecture, tmp_path, fresh=fresh)


def nothing_is_left(tmp_path):
    names = [path.name for path in (tmp_path / "images").rglob("*") if path.suffix != ".lock"]
    return [name for name in names if not name.endswith(".json")] == []


def gets(server):
    return [path for method, path, _ in server.asked if method == "GET"]


def test_a_name_is_looked_up_fetched_checked_and_kept(server, new, tmp_path, qcow2):
    publish(server, qcow2)
    found = find(new(), tmp_path, NAME)
    assert (found.name, found.read_bytes()) == ("debian-13.qcow2", qcow2)
    assert gets(server) == [f"{FOLDER}SHA512SUMS", FOLDER + FILE]
    # By another process and by another of its names, without a word to anybody.
    assert find(new(), tmp_path, NAME) == found == find(new(), tmp_path, "debian-trixie")
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("name", "architecture", "folder", "file", "list_", "line"),
    [
        ("ubuntu-24.04", X86_64, "/24.04/release/", "ubuntu-24.04-server-cloudimg-amd64.img",
         "SHA256SUMS", "{sha256} *{file}"),
        ("ubuntu-noble", AARCH64, "/24.04/release/", "ubuntu-24.04-server-cloudimg-arm64.img",
         "SHA256SUMS", "{sha256} *{file}"),
        ("fedora-43", X86_64, "/43/Cloud/x86_64/images/",
         "Fedora-Cloud-Base-Generic-43-1.6.x86_64.qcow2", "Fedora-Cloud-43-1.6-x86_64-CHECKSUM",
         "-----BEGIN PGP SIGNED MESSAGE-----\n# {file}: 1 bytes\nSHA256 ({file}) = {sha256}"),
        ("alpine-3.22", X86_64, "/v3.22/releases/cloud/",
         "nocloud_alpine-3.22.10-x86_64-bios-cloudinit-r0.qcow2",
         "nocloud_alpine-3.22.10-x86_64-bios-cloudinit-r0.qcow2.sha512", "{sha512}"),
        ("alpine-3.22", AARCH64, "/v3.22/releases/cloud/",
         "nocloud_alpine-3.22.10-aarch64-uefi-cloudinit-r0.qcow2",
         "nocloud_alpine-3.22.10-aarch64-uefi-cloudinit-r0.qcow2.sha512", "{sha512}"),
        ("debian:12", AARCH64, "/bookworm/latest/", "debian-12-genericcloud-arm64.qcow2",
         "SHA512SUMS", "{sha512}  {file}"),
    ],
)  # fmt: skip
def test_each_distribution_s_list_is_understood(
    name, architecture, folder, file, list_, line, server, new, tmp_path, qcow2
):
    words = {
        "file": file, "sha256": hashlib.sha256(qcow2).hexdigest(),
        "sha512": hashlib.sha512(qcow2).hexdigest(),
    }  # fmt: skip
    server.files[folder + file] = qcow2
    server.files[folder + list_] = line.format(**words).encode()
    # An older one beside it, whose number only looks larger.
    server.files[folder + list_.replace("3.22.10", "3.22.9").replace("43-1.6", "43-1.5")] = (
        server.files[folder + list_]
    )
    assert find(new(), tmp_path, name, architecture).read_bytes() == qcow2


def test_another_image_behind_a_name_is_said_and_fetched(
    server, new, tmp_path, qcow2, said, monkeypatch
):
    publish(server, qcow2)
    first = find(new(), tmp_path, NAME)
    publish(server, RAW)
    assert find(new(), tmp_path, NAME) == first  # asked for once a day
    monkeypatch.setattr(images, "_FRESH", 0.0)
    second = find(new(), tmp_path, NAME)
    assert (second.name, second.read_bytes()) == ("debian-13.raw", RAW)
    (line,) = said
    assert line.startswith("vmports: debian-13 is another image now: sha512:")


def test_an_image_that_is_here_is_used_where_its_list_is_not_to_be_had(
    server, new, tmp_path, qcow2, said
):
    publish(server, qcow2)
    found = find(new(), tmp_path, NAME)
    server.broken[f"{FOLDER}SHA512SUMS"] = image_server.status(404)
    assert find(new(), tmp_path, NAME, fresh=True) == found
    assert "the image that is here is used: http" in said[0] and "404" in said[0]
    shutil.rmtree(found.parent)
    with pytest.raises(FetchError, match="404"):
        find(new(), tmp_path, NAME, fresh=True)


PACKED = {
    "gz": gzip.compress, "xz": lzma.compress, "bz2": bz2.compress,
    "zst": lambda data: unpack._zstd().compress(data),
}  # fmt: skip


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("from_file", [False, True], ids=["address", "file"])
def test_what_is_compressed_is_unpacked_once(kind, from_file, server, new, tmp_path):
    packed = PACKED[kind](RAW)
    server.files[f"/disk.raw.{kind}"] = packed
    (tmp_path / f"disk.raw.{kind}").write_bytes(packed)
    written = f"disk.raw.{kind}" if from_file else f"{server.url}/disk.raw.{kind}"
    sha256 = hashlib.sha256(packed).hexdigest()
    found = find(new(), tmp_path, written, sha256=sha256)
    assert (found.name, found.read_bytes()) == ("disk.raw", RAW)
    assert found.stat().st_blocks * 512 < len(RAW) // 2  # its zeros take no room
    assert find(new(), tmp_path, written, sha256=sha256) == found
    assert len(gets(server)) == (0 if from_file else 1)


@pytest.mark.parametrize("kind", PACKED)
def test_what_is_packed_and_damaged_or_cut_is_refused_and_leaves_nothing(
    kind, server, new, tmp_path
):
    packed = PACKED[kind](RAW)
    damaged = [packed[:-9], packed[: len(packed) // 2]]
    if kind != "zst":  # which has no sum of its own, where none was asked for
        damaged.append(packed[:100_000] + bytes(64) + packed[100_064:])
    for bad in damaged:
        server.files["/bad"] = bad
        with pytest.raises(ImageError, match=r"cannot be unpacked|compressed"):
            find(new(), tmp_path, f"{server.url}/bad", sha256=hashlib.sha256(bad).hexdigest())
        assert nothing_is_left(tmp_path)


def test_what_unpacks_to_more_than_all_may_take_is_refused(server, new, tmp_path):
    packed = lzma.compress(bytes(80 << 20))
    (tmp_path / "bomb.xz").write_bytes(packed)
    with pytest.raises(ImageError, match="unpacked it has more than the 64 MiB"):
        find(new(), tmp_path, "bomb.xz")
    assert nothing_is_left(tmp_path)


@pytest.mark.parametrize("kind", ["vmdk", "vdi", "vhdx", "vpc", "qed", "parallels"])
def test_other_programs_formats_are_converted_once(kind, new, tmp_path, qemu_binary):
    (tmp_path / "disk.raw").write_bytes(RAW)
    convert = ["qemu-img", "convert", "-O", kind, tmp_path / "disk.raw", tmp_path / f"d.{kind}"]
    subprocess.run(convert, check=True)
    found = find(new(), tmp_path, f"d.{kind}" if kind != "vpc" else tmp_path / "d.vpc")
    assert found.suffix == ".qcow2"
    back = ["qemu-img", "convert", "-O", "raw", found, tmp_path / "back.raw"]
    subprocess.run(back, check=True)
    assert (tmp_path / "back.raw").read_bytes()[: len(RAW)] == RAW
    assert find(new(), tmp_path, tmp_path / f"d.{kind}") == found


def test_a_text_that_describes_a_vmdk_is_not_followed(new, tmp_path, qemu_binary):
    (tmp_path / "secret").write_bytes(RAW)
    text = (
        "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n"
        f'createType="monolithicFlat"\nRW {len(RAW) // 512} FLAT "{tmp_path}/secret" 0\n'
    )
    (tmp_path / "d.vmdk").write_text(text)
    with pytest.raises(ImageError, match="its data are in other files"):
        find(new(), tmp_path, "d.vmdk")


def test_an_image_that_needs_nothing_stays_where_it_is(new, tmp_path, qcow2):
    for name, content in (("a.qcow2", qcow2), ("b.img", RAW)):
        (tmp_path / name).write_bytes(content)
        assert find(new(), tmp_path, f"./{name}") == tmp_path / name
        assert find(new(), tmp_path, (tmp_path / name).as_uri()) == tmp_path / name
    with pytest.raises(FetchError, match=f"its sha256 is {SHA} and should be 0000"):
        find(new(), tmp_path, "./b.img", sha256="0" * 64)
    with pytest.raises(GuestNotFoundError, match=r"did you mean .*a\.qcow2"):
        find(new(), tmp_path, "./aa.qcow2")


# What goes wrong on the way, and what is said of it.
FAULTS = {
    "not there": (image_server.status(404), "404"),
    "forbidden": (image_server.status(403), "403"),
    "out of order": (image_server.status(503), "503"),
    "no HTTP": (image_server.rubbish, "BadStatusLine|Connection"),
    "goes round": (image_server.redirect("/disk.raw"), "redirects"),
    "a file of ours": (image_server.redirect("file:///etc/passwd"), "InvalidSchema"),
    "has no end": (image_server.endless, "has 64 MiB or more"),
    "says nothing": (image_server.silent(3), "timed out|Timeout"),
    "drips": (image_server.dripping(RAW, 4000, 0.02), "bytes came in"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_server_s_is_one_line_and_leaves_no_image(
    fault, server, new, tmp_path, monkeypatch
):
    monkeypatch.setattr(fetch, "_SILENT_SECONDS", 0.3)
    monkeypatch.setattr(fetch, "_SLOW_SECONDS", 0.2)
    monkeypatch.setattr(fetch, "_CHUNK", 1 << 12)
    server.broken["/disk.raw"], words = FAULTS[fault]
    opened = new()
    with pytest.raises(FetchError, match=words) as caught:
        find(opened, tmp_path, f"{server.url}/disk.raw", sha256=SHA)
    assert "\n" not in str(caught.value)
    kept = [path for path in (tmp_path / "images").iterdir() if path.is_dir()]
    assert kept == []
    # The tests that come do not wait for the same once more.
    asked = len(server.asked)
    with pytest.raises(FetchError, match=words):
        find(opened, tmp_path, f"{server.url}/disk.raw", sha256=SHA)
    assert len(server.asked) == asked


def test_another_file_than_it_should_be_is_refused_and_leaves_nothing(server, new, tmp_path):
    with pytest.raises(FetchError, match=f"expected sha256:{'0' * 64}; got {SHA}"):
        find(new(), tmp_path, f"{server.url}/disk.raw", sha256="0" * 64)
    assert nothing_is_left(tmp_path)


def test_what_is_cut_is_gone_on_with_in_this_run_and_in_the_next(server, new, tmp_path):
    server.cut["/disk.raw"] = [50_000, 1_000_000]
    assert find(new(), tmp_path, f"{server.url}/disk.raw", sha256=SHA).read_bytes() == RAW
    begins = [int((wanted or "bytes=0-")[6:-1]) for *_, wanted in server.asked]
    assert begins[0] == 0 and 30_000 < begins[1] <= 50_000 and 1_000_000 < begins[2] < 1_060_000
    shutil.rmtree(tmp_path / "images")
    server.asked.clear()
    # It ends for good, as where the network goes down.
    server.cut["/disk.raw"] = [70_000, 0, 0, 0]
    with pytest.raises(FetchError, match="what has come is kept"):
        find(new(), tmp_path, f"{server.url}/disk.raw", sha256=SHA)
    server.cut.clear()
    assert find(new(), tmp_path, f"{server.url}/disk.raw", sha256=SHA).read_bytes() == RAW
    assert int(server.asked[-1][2][6:-1]) > 50_000


def test_a_part_of_another_file_does_no_harm(server, new, tmp_path):
    for ranges in (True, False):
        server.ranges = ranges
        shutil.rmtree(tmp_path / "images", ignore_errors=True)
        opened = new()
        part = opened.store.part({"content": {"digest": f"sha256:{SHA}"}})
        for before in (b"other" * 1000, bytes(len(RAW)), bytes(len(RAW) + 9)):
            part.write_bytes(before)
            found = find(opened, tmp_path, f"{server.url}/disk.raw", sha256=SHA)
            assert found.read_bytes() == RAW
            opened.store.clear()
            opened.close()
            opened.store.clear()


def test_one_that_is_whole_and_not_checked_is_not_fetched_again(server, new, tmp_path):
    opened = new()
    opened.store.part({"content": {"digest": f"sha256:{SHA}"}}).write_bytes(RAW)
    assert find(opened, tmp_path, f"{server.url}/disk.raw", sha256=SHA).read_bytes() == RAW
    assert [wanted for *_, wanted in server.asked] == [f"bytes={len(RAW)}-"]


def test_the_room_that_it_takes_is_looked_at_before(server, new, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    full = usage._replace(free=1 << 20)
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda _: full)
    with pytest.raises(FetchError, match=r"3 MiB of it are missing, and .* has room for 1"):
        find(new(), tmp_path, f"{server.url}/disk.raw", sha256=SHA)
    with pytest.raises(FetchError, match="raise images_size"):
        find(new(size=2), tmp_path, f"{server.url}/disk.raw", sha256=SHA)


def test_an_address_without_a_digest_is_looked_at_again_by_its_servers_marks(
    server, new, tmp_path, said, monkeypatch
):
    # As https is read; there is no certificate here.
    url = f"{server.url}/disk.raw"
    wanted = source.Source(url, url=url)
    first = new().find(wanted, X86_64, tmp_path)
    assert said == [f"vmports: {url} is not pinned; its sha256 is {SHA}"]
    assert new().find(wanted, X86_64, tmp_path) == first
    assert gets(server) == ["/disk.raw"]
    monkeypatch.setattr(images, "_FRESH", 0.0)
    assert new().find(wanted, X86_64, tmp_path) == first
    server.files["/disk.raw"] = RAW[::-1]
    assert new().find(wanted, X86_64, tmp_path).read_bytes() == RAW[::-1]
    assert "is another image now" in said[1]


def test_the_images_stay_within_their_bound_and_the_latest_used_stay(server, new, tmp_path):
    paths = []
    for number in range(4):
        content = RAW[:512] + os.urandom(3 << 20) + bytes([number])
        server.files[f"/{number}.raw"] = content
        sha256 = hashlib.sha256(content).hexdigest()
        opened = new(size=10)
        paths.append(find(opened, tmp_path, f"{server.url}/{number}.raw", sha256=sha256))
        opened.close()
    assert [path.exists() for path in paths] == [False, True, True, True]


WORKER = """
import sys
from pathlib import Path
from pytest_vmports.guests import source
from pytest_vmports.images.images import Images, Kept
from pytest_vmports.system.architecture import X86_64

folder, url, sha256 = sys.argv[1:]
opened = Images(Kept(folder), lambda line: print(line, flush=True))
print("found", opened.find(source.read(url, sha256), X86_64, Path()), flush=True)
"""


def worker(tmp_path, server):
    words = [str(tmp_path / "images"), f"{server.url}/disk.raw", SHA]
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WORKER), *words], stdout=subprocess.PIPE, text=True
    )


def test_all_workers_have_one_download_and_a_killed_one_is_gone_on_with(server, tmp_path):
    came, go_on = threading.Event(), threading.Event()

    def half(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(RAW)))
        handler.end_headers()
        handler.wfile.write(RAW[: 1 << 20])
        came.set()
        go_on.wait(60)
        handler.close_connection = True

    server.broken["/disk.raw"] = half
    with worker(tmp_path, server) as first:
        assert came.wait(60)
        with worker(tmp_path, server) as second, worker(tmp_path, server) as third:
            del server.broken["/disk.raw"]
            first.kill()
            first.wait()
            go_on.set()
            said = [one.communicate(timeout=120)[0] for one in (second, third)]
    assert all("found" in text for text in said)
    ranges = [wanted for *_, wanted in server.asked]
    assert len(ranges) == 2 and ranges[0] is None and ranges[1].startswith("bytes=")


def test_without_what_fetches_it_says_what_to_install(new, server, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(HostError, match=r"pip install 'pytest-vmports\[images\]'"):
        find(new(), tmp_path, f"{server.url}/disk.raw", sha256=SHA)


def test_a_guest_of_an_image_has_what_lets_us_in_and_room():
    guest = Guest.image("debian-13", memory=None)
    assert (guest.name, guest.memory, guest.root_disk.ssh) == ("debian-13", 512, True)
    assert guest.root_disk.seed is not None and guest.source.release.version == "13"
    plain = Guest.image("https://example.org/a/disk%20one.qcow2")
    assert (plain.name, plain.memory, plain.root_disk.seed) == ("disk one.qcow2", None, None)


@pytest.mark.parametrize(("fault", "outcome"), [("gone", "skipped"), ("another", "errors")])
def test_missing_skip_holds_for_a_server_that_is_not_there_and_for_no_wrong_file(
    fault, outcome, server, pytester, monkeypatch, qcow2, qemu_binary
):
    publish(server, qcow2)
    url = server.url if fault == "another" else "http://127.0.0.1:1"
    server.files[FOLDER + FILE] = qcow2[:-1] + b"x"
    monkeypatch.setenv("VMPORTS_IMAGE_MIRROR", f"debian={url}")
    monkeypatch.setenv("VMPORTS_IMAGES_DIR", str(pytester.path / "images"))
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.vmports(80, guest="debian-13", missing="skip")
        def test_it(vm_with_ports):
            pass
        """
    )
    result = pytester.runpytest_subprocess("-rs")
    result.assert_outcomes(**{outcome: 1})
    result.stdout.fnmatch_lines(["*cannot be fetched*"])


def test_a_name_with_a_digest_is_that_content_and_no_newer(server, new, tmp_path, qcow2):
    publish(server, qcow2)
    right = hashlib.sha256(qcow2).hexdigest()
    with pytest.raises(FetchError, match="should be"):
        find(new(), tmp_path, NAME, sha256="ab" * 32)
    assert nothing_is_left(tmp_path)
    assert find(new(), tmp_path, NAME, sha256=right).read_bytes() == qcow2


def test_what_is_converted_to_more_than_all_images_may_take_is_refused(new, tmp_path, qemu_binary):
    (tmp_path / "raw").write_bytes(RAW[:512] + b"\0" * (7 << 20) + b"x" * (12 << 20))
    words = ["-O", "vmdk", "-o", "subformat=streamOptimized"]
    convert = ["qemu-img", "convert", *words, tmp_path / "raw", tmp_path / "d.vmdk"]
    subprocess.run(convert, check=True)
    assert (tmp_path / "d.vmdk").stat().st_size < 1 << 20
    with pytest.raises(ImageError, match="converted it has 12 MiB, and all images may take 8"):
        find(new(size=8), tmp_path, "d.vmdk")
    assert nothing_is_left(tmp_path)
