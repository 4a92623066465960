"""Disk images: what is refused before a boot, the overlay, firmware, and who names the guest."""

import hashlib
import json
import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_vmports import ExposedPort, Guest, PortMapping
from pytest_vmports.errors import (
    FirmwareNotFoundError,
    GuestNotFoundError,
    ImageError,
    QemuNotFoundError,
    SettingError,
)
from pytest_vmports.guests import disk_agent
from pytest_vmports.guests import image as disk
from pytest_vmports.guests import qemu_img as qemu_img_module
from pytest_vmports.guests.cloud_init import Seed
from pytest_vmports.guests.image import Disk
from pytest_vmports.network.exposed import ExposedPorts
from pytest_vmports.pool.guest_choice import chosen_guest
from pytest_vmports.settings import options
from pytest_vmports.system import firmware
from pytest_vmports.system.architecture import AARCH64, X86_64
from pytest_vmports.system.digests import digest_now
from pytest_vmports.vm.inside.kind import kind_of
from pytest_vmports.vm.inside.waiting import Place

MIB = 1 << 20


def qemu_img(*arguments):
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture
def make(tmp_path, qemu_binary):
    """Return a function that makes an image of 4 MiB, with content, and returns its path."""

    def made(name="disk.qcow2", *options):
        raw = tmp_path / "content"
        raw.write_bytes(b"\xeb\xfe" + bytes(508) + b"\x55\xaa" + bytes(512) + b"data" * MIB)
        path = tmp_path / name
        image_format = name.rpartition(".")[2]
        qemu_img("convert", "-f", "raw", "-O", image_format, *options, raw, path)
        raw.unlink()
        return path

    return made


def refused(path, *, direct=False, **keywords):
    """Return what is said of an image that cannot be booted."""
    with pytest.raises(ImageError) as caught:
        disk.check(Disk(path, **keywords), direct=direct)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["qcow2", "raw"])
def test_an_image_that_is_whole_is_recognised(make, kind):
    assert disk.check(Disk(make(f"disk.{kind}")), direct=False) == kind


def test_the_overlay_takes_the_writes_and_the_image_stays_as_it_is(make, tmp_path):
    image = make()
    before = hashlib.sha256(image.read_bytes()).digest()
    image.chmod(0o444)
    disk.make_overlay(image, "qcow2", tmp_path / "overlay")
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", "write -P 7 0 1M", tmp_path / "overlay"],
        check=True, capture_output=True,
    )  # fmt: skip
    assert hashlib.sha256(image.read_bytes()).digest() == before
    told = subprocess.check_output(["qemu-img", "info", "--output=json", tmp_path / "overlay"])
    assert json.loads(told)["full-backing-filename"] == str(image)


@pytest.mark.parametrize("wrong", ["absent", "folder", "empty"])
def test_an_image_that_is_none_is_told_at_once(tmp_path, wrong):
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    said = {"absent": "does not exist", "folder": "is not a file", "empty": "is empty"}[wrong]
    with pytest.raises(GuestNotFoundError, match=f"disk image {tmp_path / wrong} {said}"):
        Guest.disk(tmp_path / wrong)


def test_an_image_that_may_not_be_read_is_told_at_once(make, monkeypatch):
    image = make()
    monkeypatch.setattr("os.access", lambda *_: False)  # root may read everything
    with pytest.raises(GuestNotFoundError, match=f"{image} cannot be read by this user"):
        Guest.disk(image)


@pytest.mark.parametrize("kept", [100, 70_000, 3 * MIB])
def test_a_truncated_qcow2_is_refused(make, kept):
    image = make()
    image.write_bytes(image.read_bytes()[:kept])
    said = refused(image)
    assert "truncated or damaged" in said or "qemu-img cannot read it" in said
    assert "fetch or build it again" in said


def test_an_encrypted_qcow2_is_refused(encrypted_qcow2):
    said = refused(encrypted_qcow2)
    assert "it is encrypted" in said and "qemu-img convert" in said


def test_a_qcow2_whose_backing_file_is_gone_names_that_file(make, tmp_path):
    base, top = make("base.qcow2"), tmp_path / "top.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, top)
    assert disk.check(Disk(top), direct=False) == "qcow2"
    base.unlink()
    said = refused(top)
    assert f"its backing file {base} does not exist" in said and "qemu-img rebase" in said
    # What a template's key is made of is asked for first.
    with pytest.raises(ImageError, match=r"its backing file .* does not exist"):
        disk.identity(Disk(top), X86_64)


class TestIdentity:
    """What is in the key of a disk image's template."""

    @pytest.fixture
    def image(self, make, tmp_path):
        """Return an image with another behind it, and one more behind that."""
        make("base.qcow2")
        for above, below in (("middle", "base"), ("top", "middle")):
            backing = tmp_path / f"{below}.qcow2"
            top = tmp_path / f"{above}.qcow2"
            qemu_img("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", backing, top)
        return tmp_path / "top.qcow2"

    def test_it_is_exactly_this(self, image, tmp_path):
        seed = Seed(b"#cloud-config\n{}\n")
        found = disk.identity(Disk(image, "qcow2", "uefi", seed, ssh=True), X86_64)
        chain = [tmp_path / f"{name}.qcow2" for name in ("top", "middle", "base")]
        digest = hashlib.sha256()
        files = seed.files(agent=disk_agent.script(X86_64))
        for name, content in sorted(files.items()):
            digest.update(f"{name} {len(content)}\n".encode() + content)
        assert found == {
            "files": [digest_now(path) for path in chain],
            "format": "qcow2",
            "firmware": "uefi",
            "seed": digest.hexdigest(),
            "shells": [True, False],
        }
        assert disk.identity(Disk(image), X86_64)["seed"] is None

    @pytest.mark.parametrize(
        ("field", "changes"),
        [
            ("format", {"format": "qcow2"}),
            ("firmware", {"firmware": "uefi"}),
            ("seed", {"seed": Seed()}),
            ("seed", {"seed": Seed(), "bare": True}),
            ("shells", {"ssh": True}),
            ("shells", {"agent": True}),
        ],
    )
    def test_each_setting_of_a_disk_is_in_it(self, image, field, changes):
        before, after = (
            disk.identity(Disk(image), X86_64),
            disk.identity(Disk(image, **changes), X86_64),
        )
        assert {name for name in before if before[name] != after[name]} == {field}

    def test_the_agent_that_its_seed_brings_is_in_it(self, image):
        brings, bare = Disk(image, seed=Seed()), Disk(image, seed=Seed(), bare=True)
        seeds = {disk.identity(brings, each)["seed"] for each in (X86_64, AARCH64)}
        seeds.add(disk.identity(bare, X86_64)["seed"])
        assert len(seeds) == 3

    @pytest.mark.parametrize("part", ["user_data", "meta_data", "network_config"])
    def test_each_file_of_the_seed_is_in_it(self, image, part):
        seeds = [Seed(), Seed(**{part: b"a: 1\n"}), Seed(**{part: b"a: 2\n"})]
        assert len({disk.identity(Disk(image, seed=seed), X86_64)["seed"] for seed in seeds}) == 3

    @pytest.mark.parametrize("which", ["top", "middle", "base"])
    def test_the_content_of_each_file_of_the_chain_is_in_it(self, image, tmp_path, which):
        before = disk.identity(Disk(image), X86_64)
        path = tmp_path / f"{which}.qcow2"
        copy = path.with_suffix(".copy")
        shutil.copy2(path, copy)
        copy.rename(path)
        assert disk.identity(Disk(image), X86_64) == before
        with path.open("ab") as file:
            file.write(b"more")
        assert disk.identity(Disk(image), X86_64) != before

    def test_an_image_with_another_behind_it_is_another(self, image, tmp_path):
        before = disk.identity(Disk(image), X86_64)
        qemu_img("rebase", "-u", "-F", "qcow2", "-b", tmp_path / "base.qcow2", image)
        after = disk.identity(Disk(image), X86_64)
        assert [len(found["files"]) for found in (before, after)] == [3, 2]


def test_another_format_is_told_with_the_command_that_converts_it(make):
    said = refused(make("disk.vmdk"))
    assert "it is a vmdk image" in said and "qemu-img convert -O qcow2" in said


def test_a_format_that_is_given_is_believed_and_checked(make):
    assert disk.check(Disk(make("a.raw"), format="raw"), direct=True) == "raw"
    assert "qemu-img cannot read it" in refused(make("b.raw"), format="qcow2")


CODE, SIGNED = b"\xeb\xfe" + bytes(508), b"\x55\xaa"
BOOTS = {
    "zeros": (bytes(MIB), set(), "it has no boot sector and no partitions, so no firmware"),
    "code": (CODE + bytes(MIB), set(), "it has no boot sector and no partitions"),
    "boot sector": (CODE + SIGNED + bytes(MIB), {"bios", "uefi"}, ""),
    "signature": (bytes(510) + SIGNED + bytes(MIB), {"uefi"}, "give firmware='uefi'"),
    "GPT": (bytes(512) + b"EFI PART" + bytes(MIB), {"uefi"}, "no boot loader for a BIOS"),
    "GPT, 4096": (bytes(4096) + b"EFI PART" + bytes(MIB), {"uefi"}, "no boot loader for a BIOS"),
}


@pytest.mark.parametrize("name", BOOTS)
def test_a_raw_image_is_booted_by_firmware_that_finds_something_on_it(tmp_path, qemu_binary, name):
    content, boots, said = BOOTS[name]
    image = tmp_path / "bare.raw"
    image.write_bytes(content)
    assert disk.check(Disk(image), direct=True) == "raw"
    for by in ("bios", "uefi"):
        if by in boots:
            assert disk.check(Disk(image, firmware=by), direct=False) == "raw"
        else:
            assert said in refused(image, firmware=by)
    if "uefi" in boots:  # boards without BIOS do not look for one
        assert disk.check(Disk(image), direct=False, has_bios=False) == "raw"


def head_of(kind):
    head = bytearray(4096)
    head[:2] = b"\xeb\xfe"
    head[510:512] = b"\x55\xaa"
    if kind == "partitions":
        head[446:462] = struct.pack("<B3sB3sII", 0x80, b"", 0x83, b"", 2048, 4096 - 2048)
    elif kind == "gpt":
        head[512:520] = b"EFI PART"
        head[544:552] = struct.pack("<Q", 4095)
    else:
        head[1080:1082] = b"\x53\xef"
        head[1028:1032] = struct.pack("<I", 512)
        head[1048] = 2  # blocks of 4096
    return bytes(head)


@pytest.mark.parametrize("kind", ["partitions", "gpt", "ext4"])
def test_a_raw_image_shorter_than_its_own_tables_is_refused(tmp_path, qemu_binary, kind):
    image = tmp_path / "disk.raw"
    image.write_bytes(head_of(kind) + bytes(2 * MIB - 4096))
    assert disk.check(Disk(image), direct=False) == "raw"
    image.write_bytes(head_of(kind) + bytes(MIB))
    assert f"it is truncated: {MIB + 4096} bytes of {2 * MIB}" in refused(image)


def test_what_wastes_space_only_is_no_damage(make, monkeypatch):
    image = make()
    monkeypatch.setattr(
        disk, "qemu_img",
        lambda asked, **_: (0, '{"format": "qcow2"}', "") if "info" in asked else (3, "", "leaks"),
    )  # fmt: skip
    assert disk.check(Disk(image), direct=False) == "qcow2"


def test_without_qemu_img_the_error_says_what_to_install(make, monkeypatch):
    image = make()
    monkeypatch.setattr(qemu_img_module.surroundings, "which", lambda _: None)
    with pytest.raises(QemuNotFoundError, match=r"(?s)qemu-img from PATH: not there.*install it"):
        disk.check(Disk(image), direct=False)


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"format": "vmdk"}, "format = 'vmdk' is not allowed; one of qcow2, raw"),
        ({"firmware": "efi"}, "firmware = 'efi' is not allowed; one of bios, uefi, uefi-secure"),
        ({"append": "root=/dev/vda"}, "it goes with kernel="),
        ({"initrd": "/initrd"}, "it goes with kernel="),
    ],
)
def test_settings_of_a_disk_that_make_no_sense_are_refused(make, keywords, said):
    with pytest.raises(SettingError) as caught:
        Guest.disk(make(), **keywords)
    assert said in str(caught.value)


@pytest.mark.parametrize("addition", [{"files": {"a": "/a"}}, {"setup": "true"}])
def test_a_disk_image_takes_no_files_and_no_setup(make, addition):
    guest = Guest.disk(make())
    with pytest.raises(SettingError, match="give it user_data"):
        guest.with_additions(**{"files": {}, "setup": None, **addition})


def test_guests_of_a_disk_are_equal_when_all_that_they_boot_is(make):
    image = make()
    one = Guest.disk(image, user_data="#cloud-config\n{}\n")
    assert one == Guest.disk(image, user_data=b"#cloud-config\n{}\n")
    assert one != Guest.disk(image, user_data="#cloud-config\na: 1\n")
    assert one != Guest.disk(image)
    assert hash(one.root_disk) == hash(Guest.disk(image, user_data="#cloud-config\n{}\n").root_disk)


# --- firmware ---------------------------------------------------------------------------------


@pytest.fixture
def describe(tmp_path, monkeypatch):
    """Return a function that installs a description of firmware."""
    place = tmp_path / "descriptions"
    place.mkdir()
    monkeypatch.setattr(firmware, "PLACES", (tmp_path / "absent", place))

    def installed(name, *, features=(), machine="pc-i440fx-*", arch="x86_64", exists=True):
        code, variables = tmp_path / f"{name}.code", tmp_path / f"{name}.vars"
        if exists:
            code.write_bytes(b"code")
            variables.write_bytes(b"vars")
        parts = {"executable": code, "nvram-template": variables}
        (place / f"{name}.json").write_text(
            json.dumps(
                {
                    "interface-types": ["uefi"],
                    "mapping": {"device": "flash"}
                    | {k: {"filename": str(v), "format": "raw"} for k, v in parts.items()},
                    "targets": [{"architecture": arch, "machines": [machine]}],
                    "features": list(features),
                }
            )
        )
        return firmware.Firmware(code, variables)

    return installed


def test_the_first_description_that_fits_names_the_firmware(describe):
    describe("10-signed", features=["secure-boot", "requires-smm"])
    describe("20-gone", exists=False)
    describe("30-other-machine", machine="pc-q35-*")
    arm = describe("40-arm", arch="aarch64", machine="virt-*")
    plain = describe("50-plain")
    describe("60-too")
    assert firmware.find_firmware(X86_64) == plain
    assert firmware.find_firmware(AARCH64) == arm


def test_without_firmware_the_error_says_what_to_install(describe, monkeypatch):
    monkeypatch.setattr(
        "pytest_vmports.system.programs.shutil.which", lambda name: name == "apt-get"
    )
    describe("signed", features=["enrolled-keys"])
    with pytest.raises(FirmwareNotFoundError, match="apt-get install ovmf"):
        firmware.find_firmware(X86_64)
    with pytest.raises(FirmwareNotFoundError, match="apt-get install qemu-efi-aarch64"):
        firmware.find_firmware(AARCH64)


def test_each_vm_has_its_own_copy_of_the_firmwares_variables(describe, make, tmp_path):
    found = describe("plain")
    drives = [
        drives_of(
            Guest("g", prepared=False, root_disk=Disk(make(), firmware="uefi")),
            folder(tmp_path, name),
        )
        for name in "ab"
    ]
    assert [d.firmware[0] for d in drives] == [found.code] * 2
    copies = {d.firmware[1] for d in drives}
    assert len(copies) == 2 and found.variables not in copies
    assert {copy.read_bytes() for copy in copies} == {b"vars"}


def test_a_kernel_that_is_booted_directly_needs_no_firmware(make, tmp_path, monkeypatch):
    monkeypatch.setattr(firmware, "PLACES", ())
    (kernel := tmp_path / "kernel").touch()
    guest = Guest("g", kernel_path=kernel, prepared=False, root_disk=Disk(make(), firmware="uefi"))
    assert drives_of(guest, folder(tmp_path, "a")).firmware is None


def drives_of(guest, workdir):
    place = Place(workdir, workdir.parent, workdir)
    return kind_of(guest, X86_64).files(place, restored=False).drives


def folder(tmp_path, name):
    path = tmp_path / name
    path.mkdir()
    return path


# --- the forward to ssh -----------------------------------------------------------------------


def test_a_port_for_ssh_is_added_where_the_test_did_not_ask_for_it():
    guest = Guest("g", prepared=False, root_disk=Disk(Path("i"), ssh=True))
    kind = kind_of(guest, X86_64)
    assert kind.own_ports([PortMapping(internal=80)]) == [PortMapping(internal=22)]
    assert kind.own_ports([PortMapping(internal=22)]) == []
    assert kind.own_ports([PortMapping(internal=22, protocol="udp")]) != []
    assert (
        kind_of(Guest("g", prepared=False, root_disk=Disk(Path("i"))), X86_64).own_ports([]) == []
    )
    assert kind_of(Guest("g"), X86_64).own_ports([]) == []


class Lease:
    def __init__(self, number):
        self.number, self.released = number, False

    def fileno(self):
        return self.number

    def release(self):
        self.released = True


def test_a_forward_of_our_own_is_leased_like_any_other_and_not_listed():
    ports = [ExposedPort(internal=80, external=20001), ExposedPort(internal=22, external=20002)]
    leases = [Lease(7), Lease(8)]
    exposed = ExposedPorts([(ports[0], leases[0])])
    exposed.add_own([(ports[1], leases[1])])
    assert exposed.ports == (ports[0],) and exposed.own == (ports[1],)
    assert exposed.pass_fds == (7, 8)
    assert len(exposed) == 1
    exposed.replace([])
    assert all(lease.released for lease in leases)
    assert exposed.own == ()


# --- who names the guest ----------------------------------------------------------------------


@pytest.fixture
def choose(make, tmp_path, monkeypatch, pytester):
    """Return a function: which of several guests is booted when these homes name one."""
    for name in ("ini", "environment", "option", "marker", "fixture"):
        shutil.copy(make(), tmp_path / f"{name}.qcow2")
    (tmp_path / "kernel").write_bytes(b"k")

    def chosen(*homes, fixture=False, kernel=None):
        keywords = {}
        monkeypatch.delenv("VMPORTS_GUEST", raising=False)
        if "marker" in homes:
            keywords["guest"] = Guest.disk(tmp_path / "marker.qcow2")
        if "environment" in homes:
            monkeypatch.setenv("VMPORTS_GUEST", str(tmp_path / "environment.qcow2"))
        arguments = ["--vmports-guest", f"{tmp_path}/option.qcow2"] if "option" in homes else []
        lines = [f"vmports_guest = {tmp_path}/ini.qcow2"] if "ini" in homes else []
        if kernel == "ini":
            lines.append(f"vmports_kernel = {tmp_path}/kernel")
        elif kernel == "marker":
            keywords["kernel"] = f"{tmp_path}/kernel"
        pytester.makeini("\n".join(["[pytest]", *lines]))
        config = pytester.parseconfig(*arguments)
        settings = options.resolve(config, keywords, "test_x.py::test: marker vmports")
        own = Guest.disk(tmp_path / "fixture.qcow2") if fixture else None
        return chosen_guest(settings, own, tmp_path).name.removesuffix(".qcow2")

    return chosen


def test_a_markers_guest_wins_over_the_fixture_and_the_fixture_over_the_ini(choose):
    assert choose("marker", "option", "environment", "ini", fixture=True) == "marker"
    assert choose("ini", fixture=True) == "fixture"
    assert choose("ini") == "ini"
    assert choose() == "alpine"


def test_what_the_command_line_or_environment_names_wins_over_the_fixture(choose):
    assert choose("option", "environment", "ini", fixture=True) == "option"
    assert choose("environment", "ini", fixture=True) == "environment"


def test_a_kernel_counts_by_its_home_as_a_guest_does(choose):
    assert choose(fixture=True, kernel="marker") == "kernel"
    assert choose("ini", kernel="marker") == "kernel"
    assert choose(fixture=True, kernel="ini") == "fixture"
    assert choose("marker", kernel="ini") == "marker"
    assert choose(kernel="ini") == "kernel"


def test_a_function_is_called_for_the_guest_and_has_to_return_one(tmp_path, make):
    image = make()

    def settings(guest):
        return options.resolve(options.NoConfig(), {"guest": guest}, "pytest.ini")

    assert chosen_guest(settings(lambda: Guest.disk(image)), None, tmp_path).name == "disk.qcow2"
    with pytest.raises(SettingError, match=r"pytest\.ini: .* has to return a Guest.* a NoneType"):
        chosen_guest(settings(lambda: None), None, tmp_path)


@pytest.mark.parametrize("hashable", [True, False])
def test_a_function_is_called_once_for_its_ports_and_its_guest(tmp_path, make, hashable):
    image, calls = make(), []

    class Maker:
        __hash__ = object.__hash__ if hashable else None

        def __eq__(self, other):
            return self is other

        def __call__(self):
            calls.append(1)
            if len(calls) == 1:
                raise OSError("not yet")
            return replace(Guest.disk(image), ports=(PortMapping(internal=80),))

    wanted = options.resolve(options.NoConfig(), {"guest": Maker()}, "pytest.ini")
    with pytest.raises(OSError, match="not yet"):
        wanted.with_ports_of(None)
    for _ in range(2):
        assert [port.internal for port in wanted.with_ports_of(None).expose] == [80]
        assert chosen_guest(wanted, None, tmp_path).name == "disk.qcow2"
    assert len(calls) == (2 if hashable else 5)
