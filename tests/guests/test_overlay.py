"""An overlay that is written here is what qemu-img makes, to qemu-img itself."""

from __future__ import annotations

import json
import subprocess

import pytest

from pytest_vmports.errors import ImageError
from pytest_vmports.guests import overlay

MIB, GIB = 1 << 20, 1 << 30


def qemu_img(*words):
    return subprocess.run(["qemu-img", *words], check=True, capture_output=True, text=True).stdout


def described(path):
    info = json.loads(qemu_img("info", "--output=json", path))
    for where in (info, *(child["info"] for child in info.get("children", ()))):
        for name in ("filename", "actual-size"):
            where.pop(name, None)
    return info


# One table entry is for half a GiB.
@pytest.mark.parametrize("size", [512, MIB + 512, 512 * MIB, 512 * MIB + 512, 4096 * GIB])
@pytest.mark.parametrize("compat", ["0.10", "1.1"])
def test_it_is_to_qemu_img_what_that_would_have_made(tmp_path, size, compat, qemu_binary):
    below, ours, its = (tmp_path / name for name in ("below", "a", "b"))
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"compat={compat}", below, str(size))
    assert overlay.lay(below, ours)
    qemu_img("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", below, its)
    assert described(ours) == described(its)
    # Beside the names of features, which come between the header and the file's name.
    assert len(ours.read_bytes()) == len(its.read_bytes())
    assert ours.read_bytes()[1 << 16 :] == its.read_bytes()[1 << 16 :]
    qemu_img("check", "-q", "-f", "qcow2", ours)


def test_it_takes_what_is_written_and_the_file_below_stays(tmp_path, qemu_binary):
    below, ours = tmp_path / "below, 1:2", tmp_path / "ours"
    content = tmp_path / "content"
    content.write_bytes(b"below".ljust(MIB, b"."))
    qemu_img("convert", "-f", "raw", "-O", "qcow2", content, below)
    before = below.read_bytes()
    assert overlay.lay(below, ours)
    io = ["qemu-io", "-f", "qcow2", "-c", "read -P 46 4096 512", "-c", "write -P 7 4096 512"]
    said = subprocess.run(
        [*io, "-c", "read -P 7 4096 512", ours], check=True, capture_output=True, text=True
    )
    assert "failed" not in said.stdout
    assert qemu_img("check", "-f", "qcow2", ours).startswith("No errors")
    assert below.read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [lambda head: b"", lambda head: b"QFI" + bytes(100), lambda head: head[:24] + b"\xff" * 8,
     lambda head: head[:24] + bytes(8), lambda head: head[:31] + b"\x01" + head[32:]],
    ids=["empty", "another", "too large", "nothing", "part of a sector"],
)  # fmt: skip
def test_what_it_is_not_written_for_is_left_to_qemu_img(tmp_path, change, qemu_binary):
    below = tmp_path / "below"
    qemu_img("create", "-q", "-f", "qcow2", below, "1M")
    below.write_bytes(change(below.read_bytes()))
    assert not overlay.lay(below, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_a_folder_that_takes_nothing_is_an_error_that_names_the_image(tmp_path, qemu_binary):
    below = tmp_path / "below"
    qemu_img("create", "-q", "-f", "qcow2", below, "1M")
    with pytest.raises(ImageError, match="no overlay can be made on it: No such file"):
        overlay.lay(below, tmp_path / "absent" / "ours")
    with pytest.raises(ImageError, match="no overlay can be made on it: No such file"):
        overlay.lay(tmp_path / "absent", tmp_path / "ours")


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
@pytest.mark.parametrize("name", ["image", 'an im"age, é:2\\n'])
def test_it_lies_on_the_image_that_is_here_and_not_on_what_a_file_from_elsewhere_says(
    tmp_path, kind, name, qemu_binary
):
    there, here = tmp_path / "there", tmp_path / name
    (tmp_path / "content").write_bytes(b"right".ljust(MIB, b"r"))
    qemu_img("convert", "-f", "raw", "-O", kind, tmp_path / "content", here)
    there.write_bytes(b"secret".ljust(MIB, b"s"))
    below, ours = tmp_path / "below", tmp_path / "ours"
    qemu_img("create", "-q", "-f", "qcow2", "-F", "raw", "-b", there, below)
    run = ["qemu-io", "-f", "qcow2", "-c", "write -P 7 4096 512", below]
    subprocess.run(run, check=True, capture_output=True)
    assert overlay.lay(below, ours, (here, kind))
    for gone in (False, True):
        io = ["qemu-io", "-f", "qcow2", "-c", "read -P 114 131072 512", "-c", "read -P 7 4096 512"]
        said = subprocess.run([*io, ours], check=False, capture_output=True, text=True)
        assert said.stdout.count("read 512/512") == 2 and "failed" not in said.stdout, said
        if not gone:
            there.unlink()


def test_what_lay_on_nothing_here_is_not_given_what_it_says(tmp_path, qemu_binary):
    secret, below, ours = tmp_path / "secret", tmp_path / "below", tmp_path / "ours"
    secret.write_bytes(b"s" * MIB)
    qemu_img("create", "-q", "-f", "qcow2", "-F", "raw", "-b", secret, below)
    assert overlay.lay(below, ours)
    io = ["qemu-io", "-f", "qcow2", "-c", "read -P 0 0 512", ours]
    assert "failed" not in subprocess.run(io, check=True, capture_output=True, text=True).stdout


def test_names_that_are_too_long_or_no_text_together_are_told(tmp_path):
    below = tmp_path / "below"
    qemu_img("create", "-q", "-f", "qcow2", below, "1M")
    for name in ("x" * 200 + "/" + "y" * 200, "\udcff"):
        deep = tmp_path
        for part in ("a" * 200, "b" * 200, *name.split("/")):
            deep /= part
        deep.parent.mkdir(parents=True, exist_ok=True)
        deep.write_bytes(b"x")
        with pytest.raises(ImageError, match="names"):
            overlay.lay(below, tmp_path / "ours", (deep, "raw"))
