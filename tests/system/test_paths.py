"""Names of any bytes: in QEMU's options, addresses, ssh's configuration, archives and folders."""

import itertools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

import pytest
from nasty import NASTY

from pytest_vmports import ExposedPort, Guest
from pytest_vmports.guests import image, initramfs
from pytest_vmports.leases import state_dir
from pytest_vmports.network.gvproxy import _listens, config
from pytest_vmports.report.artifacts import folder_name
from pytest_vmports.settings import parse
from pytest_vmports.system import run_dir
from pytest_vmports.system.architecture import X86_64
from pytest_vmports.system.paths import absolute, as_bytes, existing_file, text_bytes, unix_url
from pytest_vmports.system.process import spawn
from pytest_vmports.system.programs import Accelerator, Qemu
from pytest_vmports.vm.argv import Capture, Channels, Drives, Hardware, Ram, build_command
from pytest_vmports.vm.inside.ssh import SshShell

nasty = pytest.mark.parametrize("name", NASTY.values(), ids=NASTY)


def values_of(word):
    """Return an option's values, as QEMU splits them: a comma that is doubled is none."""
    parts = re.split(r"(?<!,),(?!,)|(?<=,,),(?!,)", word)
    return {key: value.replace(",,", ",") for key, _, value in (p.partition("=") for p in parts)}


@nasty
def test_qemus_options_hold_each_path_as_it_is(name):
    folder = Path("/") / name
    command = build_command(
        Hardware(Qemu("/qemu", (7, 2, 0), ""), Accelerator("tcg", ""), 300, 2), [],
        Channels(7, 9, folder / "console", sockets=folder),
        kernel=folder / "kernel", initrd=folder / "initrd", kernel_words="",
        drives=Drives(folder / "root", folder / "seed", (folder / "code", folder / "vars")),
        ram=Ram(folder / "ram", share=True), capture=Capture("n0", folder / "pcap"),
    )  # fmt: skip
    pairs = list(itertools.pairwise(command))
    whole = {value for key, value in pairs if key in {"-kernel", "-initrd"}}
    assert whole == {f"{folder}/kernel", f"{folder}/initrd"}
    found = {
        value
        for key, word in pairs if key in {"-drive", "-chardev", "-object"}
        for option, value in values_of(word).items()
        if option in {"file", "path", "mem-path", "logfile"}
    }  # fmt: skip
    ends = "root seed code vars console ram pcap console.sock monitor.sock"
    assert found == {f"{folder}/{end}" for end in ends.split()}


@nasty
def test_an_address_leads_to_the_file_and_to_no_other(name):
    written = config([], qemu_socket=f"/{name}/q", api_socket=Path(f"/{name}/a"))
    addresses = [written["interfaces"]["qemu"], written["services"], unix_url(f"/{name}/x", "y")]
    for address, end, scheme in zip(addresses, "qax", ("unix", "unix", "y"), strict=True):
        parts = urlsplit(address)
        assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == (scheme, "", "", "")
        assert unquote_to_bytes(parts.path) == as_bytes(f"/{name}/{end}")
        assert address.isascii()


@nasty
def test_a_socket_is_found_in_the_kernels_table_by_its_bytes(name, tmp_path, monkeypatch):
    import socket

    monkeypatch.chdir(tmp_path)
    path = Path(name[:30])
    assert not _listens(path)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(as_bytes(path))
        assert not _listens(path)
        one.listen()
        assert _listens(path)


@nasty
def test_files_of_any_name_are_put_into_the_guest_as_they_are(name, tmp_path):
    (tmp_path / name).mkdir()
    (tmp_path / name / name).write_bytes(b"content")
    (tmp_path / name / "link").symlink_to(name)
    written = {f"./{name}": f"/srv/{name}"}
    entries = initramfs.entries_from_host(parse.files(written, tmp_path), tmp_path)
    archive = initramfs.archive(entries)
    inside = b"srv/" + as_bytes(name)
    assert inside + b"/" + as_bytes(name) + b"\0" in archive
    assert as_bytes(name) + b"\0" in archive  # the link's target is padded
    assert archive.count(b"content") == 1


@nasty
def test_files_of_the_ini_are_split_as_a_shell_does(name, tmp_path):
    text = f"{shlex.quote(f'./{name}')}=/x" if "=" not in name else f"./{name.split('=')[0]}=/x"
    (host,) = parse.files(text, tmp_path)
    assert host == f"{tmp_path}/{name.split('=')[0]}"


@nasty
def test_a_guest_and_its_setup_may_lie_anywhere(name, tmp_path):
    root = tmp_path / name
    root.mkdir()
    (root / "setup").write_bytes(b"echo caf\xe9\n")
    for file in ("kernel", "initrd"):
        (root / file).write_bytes(b"x")
    guest = Guest.kernel(root / "kernel", root / "initrd", setup="setup")
    made, cache = guest.digest(root, X86_64), tmp_path / "cache"
    assert made["initrd"]
    _, initrd = guest.boot_files(cache, root, X86_64)
    assert b"echo caf\xe9\n" in initrd.read_bytes()


@nasty
def test_an_image_of_any_name_gets_its_overlay(name, tmp_path, qemu_binary):
    folder = tmp_path / name
    folder.mkdir()
    base, overlay = folder / f"{name}.raw", folder / "overlay.qcow2"
    base.write_bytes(b"x" * 65536)
    image.make_overlay(base, "raw", overlay)
    found = subprocess.run(
        ["qemu-img", "compare", "-q", "-f", "raw", "-F", "qcow2", base, overlay], check=False
    )
    assert found.returncode == 0
    assert image._recognise(image.Disk(base))[0] == "raw"


@nasty
def test_the_folder_of_sockets_has_room_for_them(name, tmp_path, monkeypatch):
    monkeypatch.setattr(run_dir.tempfile, "gettempdir", lambda: f"/tmp/{name}")
    base = run_dir.default_base("run")
    longest = os.fsencode(base / "rabcdefgh" / "vabcdefgh" / "monitor.sock")
    assert len(longest) <= 107
    plain = name.isprintable() and len(as_bytes(name)) < 50
    assert str(base).startswith(f"/tmp/{name}/" if plain else "/tmp/pytest-vmports-")


@nasty
def test_ssh_reads_the_configuration_as_it_is_meant(name, tmp_path):
    if not name.isprintable():
        return  # no folder of ours has such a path, see above
    folder = tmp_path / name
    folder.mkdir()
    (folder / "key").touch()
    shell = SshShell(ExposedPort(internal=22, external=2222), folder / "key", folder)
    written = shell.write_config(folder / "ssh_config")
    done = subprocess.run(
        ["ssh", "-G", "-F", written, "vm"], capture_output=True, text=True, check=True
    )
    lines = dict(line.partition(" ")[::2] for line in done.stdout.splitlines())
    for key, file in (("identityfile", "key"), ("userknownhostsfile", "known_hosts")):
        # It shows what it has split, and expands % when it uses that.
        assert lines[key].replace("%%", "%") == f"{folder}/{file}"


@nasty
def test_a_child_gets_its_words_as_they_are(name, tmp_path):
    log = tmp_path / "log"
    child = spawn("echo", ["printf", "<%s>", name], log=log)
    assert child.wait(60) == 0
    assert log.read_bytes() == b"<" + as_bytes(name) + b">"
    child.kill()


@nasty
def test_the_state_directory_and_the_mounts_may_be_called_so(name, tmp_path):
    made = state_dir.make_state_dir(tmp_path / name)
    assert made.is_dir()
    mounts = tmp_path / "mountinfo"
    shown = re.sub(rb"[ \t\n\\#]", lambda m: b"\\%03o" % m[0][0], as_bytes(f"/m/{name}"))
    mounts.write_bytes(b"1 2 3:4 / " + shown + b" rw - nfs4 server rw\n")
    assert state_dir.network_file_system(Path(f"/m/{name}/x"), mounts) == "nfs4"


@nasty
def test_artifacts_of_a_test_of_any_name_have_a_plain_folder(name):
    assert re.fullmatch(r"[A-Za-z0-9._-]+", folder_name(f"{name}.py::test"))


@nasty
def test_a_text_that_is_no_file_is_a_text(name, tmp_path):
    assert existing_file(f"echo {name}", tmp_path) is None
    assert existing_file("x" * 5000, tmp_path) is None
    assert existing_file("a\0b", tmp_path) is None
    (tmp_path / name).touch()
    assert existing_file(f"./{name}", tmp_path) == absolute(f"./{name}", tmp_path)


# --- locales without room --------------------------------------------------------------------

IN_C = """
import os, sys
from pathlib import Path
from pytest_vmports.guests.guest import Guest
from pytest_vmports.settings import parse
from pytest_vmports.system.architecture import X86_64
from pytest_vmports.system.process import spawn
root = Path(sys.argv[1])
assert sys.getfilesystemencoding() == sys.argv[2], sys.getfilesystemencoding()
files = parse.files({"d\\u00fc": "/srv/d\\u00fc"}, root)
for setup in ("echo \\u20ac\\n", "s\\u00fc.sh", sys.argv[3]):
    guest = Guest.kernel(root / "kernel", files=files, setup=parse.text_or_none(setup))
    _, made = guest.boot_files(root / "cache", root, X86_64)
    guest.digest(root, X86_64)
    sys.stdout.buffer.write(made.read_bytes())
child = spawn("echo", ["printf", "%s", "argument \\u20ac"], log=root / "log")
child.wait(60)
sys.stdout.buffer.write((root / "log").read_bytes())
"""


@pytest.mark.parametrize(("flags", "env", "encoding"), [
    (["-X", "utf8=0"], {"LC_ALL": "C", "PYTHONUTF8": "0"}, "ascii"),
    ([], {"LC_ALL": "C"}, "utf-8"),
    ([], {"LC_ALL": "C.UTF-8"}, "utf-8"),
])  # fmt: skip
def test_whatever_the_locale_texts_and_files_are_the_same_bytes(tmp_path, flags, env, encoding):
    (tmp_path / "dü").mkdir()
    (tmp_path / "dü" / os.fsdecode(b"latin\xe9")).write_bytes(b"in the folder")
    (tmp_path / "sü.sh").write_bytes(b"echo latin \xe9\n")
    (tmp_path / "kernel").write_bytes(b"k")
    command = [sys.executable, *flags, "-c", IN_C, tmp_path, encoding, "echo given ü"]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("LC_")}
    done = subprocess.run(command, capture_output=True, env={**clean, **env}, check=False)
    assert done.returncode == 0, done.stderr.decode()
    for content in (
        "echo €\n".encode(), b"echo latin \xe9\n", "echo given ü\n".encode(),
        "srv/dü/latin".encode() + b"\xe9", b"in the folder", "argument €".encode(),
    ):  # fmt: skip
        assert content in done.stdout


def test_a_text_keeps_the_bytes_that_python_had_no_characters_for():
    assert text_bytes(b"a\xff\xc3\xbc".decode("utf-8", "surrogateescape")) == b"a\xff\xc3\xbc"
