"""From a container image to a disk, its files and its service."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import subprocess
import tarfile

import image_server
import pytest
from container_images import ARCHITECTURE, archive, layer, layout, link, parts

from pytest_vmports import Guest
from pytest_vmports.cli.main import main
from pytest_vmports.errors import (
    ContainerError,
    FetchError,
    GuestNotFoundError,
    HostError,
    ImageError,
    SettingError,
    VmPortsError,
)
from pytest_vmports.guests import container, source
from pytest_vmports.images import bounded_tar, containers, root_tree
from pytest_vmports.images.images import Images, Kept
from pytest_vmports.settings import options
from pytest_vmports.system import clock, surroundings
from pytest_vmports.system.digests import digest_now

BOOT = bytes(510) + b"\x55\xaa" + bytes(1 << 20)


@pytest.fixture
def said():
    return []


@pytest.fixture
def new(tmp_path, said):
    """Return a function that opens the images as another process would."""
    with contextlib.ExitStack() as stack:

        def opened(size=64):
            images = Images(Kept(str(tmp_path / "images"), size), said.append)
            return stack.enter_context(contextlib.closing(images))

        yield opened


def find(images, where, root, *, fresh=False):
    return images.find(source.read_container(where), ARCHITECTURE, root, fresh=fresh)


def files(disk):
    """Return the members of what is unpacked to a disk, by name."""
    with tarfile.open(disk.with_name(container.FILES)) as tar:
        found = {}
        for member in tar:
            file = None if member.islnk() else tar.extractfile(member) if member.isreg() else None
            found[member.name] = member, file.read() if file else member.linkname
        return found


def content(disk):
    return {name: what for name, (member, what) in files(disk).items() if not member.isdir()}


def flat(tmp_path, *layers):
    return containers.make(
        layout(tmp_path / "image", list(layers)), made(tmp_path), 1 << 26, ARCHITECTURE
    )


def made(tmp_path):
    (tmp_path / "made").mkdir()
    return tmp_path / "made"


def is_empty(tmp_path):
    names = [path.name for path in (tmp_path / "images").rglob("*") if path.suffix != ".lock"]
    return [name for name in names if not name.endswith(".json")] == []


def test_a_disk_is_the_same_wherever_and_whenever_it_is_made(tmp_path, said):
    layout(tmp_path / "image", [layer(("etc/motd", b"hello"))])
    made = []
    for place in ("one", "two"):
        with contextlib.closing(Images(Kept(str(tmp_path / place), 64), said.append)) as images:
            disk = find(images, "oci:image", tmp_path)
            made.append(digest_now(disk) + container.identity(disk))
    assert made[0] == made[1]


def test_what_an_upper_layer_hides_is_gone_and_what_it_brings_itself_stays(tmp_path):
    found = flat(
        tmp_path,
        layer(("a/1", b"old"), ("a/2", b"old"), ("b/deep/3", b"old"), ("c", b"old"), ("d/x", b"")),
        layer(
            ("a/4", b"new"), ("a/.wh..wh..opq", b""), ("b/deep/5", b"new"), ("b/.wh.deep", b""),
            (".wh.c", b""), (".wh.missing", b""), ("d", b"a file now"),
        ),
    )  # fmt: skip
    assert content(found) == {"a/4": b"new", "b/deep/5": b"new", "d": b"a file now"}


def test_links_lead_about_in_the_image_alone(tmp_path):
    found = flat(
        tmp_path,
        layer("usr/lib", link("lib", "usr/lib"), link("up", "../../../etc"), ("etc/0", b"0")),
        layer(("lib/libc.so", b"elf"), ("up/passwd", b"users"), link("usr/lib/self", "/lib")),
        layer(("usr/lib/self/more", b"more")),
    )  # fmt: skip
    assert content(found) == {
        "usr/lib/libc.so": b"elf", "usr/lib/more": b"more", "usr/lib/self": "/lib",
        "lib": "usr/lib", "up": "../../../etc", "etc/passwd": b"users", "etc/0": b"0",
    }  # fmt: skip


def test_a_hard_link_is_what_it_was_linked_to_though_that_has_changed_since(tmp_path):
    found = flat(
        tmp_path,
        layer(("first", b"one"), ("same", b"twin")),
        layer(link("second", "first", hard=True), link("twin", "same", hard=True)),
        layer(("first", b"other"), (".wh.same", b"")),
    )
    assert content(found) == {"first": b"other", "second": b"one", "twin": b"twin"}
    (tmp_path / "made").rename(tmp_path / "before")
    shutil.rmtree(tmp_path / "image")
    found = flat(tmp_path, layer(("z", b"both"), link("a", "z", hard=True)))
    assert content(found) == {"a": b"both", "z": "a"}


def test_owners_modes_names_and_holes_are_kept(tmp_path):
    long = "/".join(["long" * 20] * 4) + "/ü\udcff"
    facts = {"uid": 3_000_000, "gid": 70_000, "mode": 0o4711, "uname": "root", "mtime": 1.5}
    packed = layer((long, b"x", facts), ("dev/null", b""), ("vmports/agent", b"not ours"), "run")
    found = files(flat(tmp_path, packed))
    member, what = found[long]
    assert (member.uid, member.gid, member.mode, member.uname, what) == (
        3_000_000, 70_000, 0o4711, "", b"x",
    )  # fmt: skip
    assert {"dev", "run"} <= found.keys()
    assert not {"dev/null", "vmports", "vmports/agent"} & found.keys()


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([layer(("../../etc/cron", b"x"))], "leads outside"),
        ([layer(link("a", "b"), link("b", "a"), ("a/x", b""))], "without end"),
        ([layer(link("a", "gone", hard=True))], "hard link to what is not there"),
        ([layer("folder", link("a", "folder", hard=True))], "hard link to what is not there"),
        ([b"no tar at all" * 100], "is no tar|is damaged"),
        ([layer(("whole", bytes(5000)))[:2000]], "is damaged|is no tar"),
        ([layer(("x", b"", {"pax_headers": {"comment": "x" * (2 << 20)}}))], "have 2097"),
        ([layer(("x" * (2 << 20), b""), form=tarfile.GNU_FORMAT)], "name or attributes have"),
    ],
)  # fmt: skip
def test_layers_that_cannot_be_put_together_are_refused(layers, words, tmp_path, new):
    with pytest.raises(ContainerError, match=words):
        find(new(), layout(tmp_path / "image", layers), tmp_path)
    assert is_empty(tmp_path)


@pytest.mark.parametrize("layers", [["abcd"], ["ab", "cd"]], ids=["a layer", "all layers"])
def test_no_more_files_are_taken_than_any_image_has(layers, tmp_path, new, monkeypatch):
    for module in (bounded_tar, root_tree):
        monkeypatch.setattr(module, "MOST_MEMBERS", 3)
    with pytest.raises(ContainerError, match="more than 3 files"):
        find(new(), layout(tmp_path / "image", [layer(*names) for names in layers]), tmp_path)


@pytest.mark.parametrize("name", ["big", "disk/big.img"], ids=["container", "containerdisk"])
def test_a_file_that_is_almost_nothing_but_a_hole_is_bounded(name, tmp_path, new):
    told = {
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": name,
        "GNU.sparse.realsize": str(1 << 44),
    }  # fmt: skip
    hole = layer((name, b"1\n0\n1\n".ljust(512, b"\0") + b"x" * 512, {"pax_headers": told}))
    with pytest.raises(ContainerError, match="larger than all images may be"):
        find(new(), layout(tmp_path / "image", [hole]), tmp_path)
    assert is_empty(tmp_path)


def as_tar(folder, target, mode="w"):
    with tarfile.open(target, mode) as tar:
        tar.add(folder, ".")
    return target


def unpacked(path, target):
    with tarfile.open(path) as tar:
        tar.extractall(target, filter="data")
    return target


WAYS = {
    "layout": lambda folder, layers, **config: layout(folder / "l", layers, **config),
    "layout in a tar": lambda folder, layers, **config: as_tar(
        layout(folder / "l", layers, **config), folder / "app.tar"
    ),
    "layout in a tar.xz": lambda folder, layers, **config: as_tar(
        layout(folder / "l", layers, **config), folder / "app.tar.xz", "w:xz"
    ),
    "docker archive": lambda folder, layers, **config: archive(
        folder / "app.tar", layers, **config
    ),
    "docker archive.gz": lambda folder, layers, **config: compressed(
        archive(folder / "app.tar", layers, **config)
    ),
    "docker archive, unpacked": lambda folder, layers, **config: unpacked(
        archive(folder / "app.tar", layers, **config), folder / "app"
    ),
}
SERVES = {
    "Entrypoint": ["serve"], "Cmd": ["--port", "80"], "Env": ["A=b=c", "PATH=/opt", "odd"],
    "WorkingDir": "/srv", "User": "app", "Volumes": {"/data/db": {}},
}  # fmt: skip
USERS = layer(
    ("etc/passwd", b"root:x:0:0::/root:/bin/sh\nodd\napp:x:101:102::/home/app:\nbad:x:-1:0::/:\n"),
    ("etc/group", b"app:x:102:\nlogs:x:4:web,app\nodd:x:y:app\n"),
)


def compressed(path):
    packed = path.with_name("packed.tar.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    return packed


@pytest.mark.parametrize("way", WAYS)
def test_whatever_saved_it_the_service_and_the_files_are_the_same(way, tmp_path, new):
    path = WAYS[way](tmp_path, [USERS, layer(("srv/page", b"hello"))], **SERVES)
    disk = find(new(), path, tmp_path)
    assert disk.stat().st_size >= 16 << 30 > disk.stat().st_blocks * 512 * 100
    assert content(disk)["srv/page"] == b"hello"
    assert "data/db" in files(disk)
    assert container.read(disk) == container.Container(
        command=("serve", "--port", "80"), folder="/srv", user=101, groups=(102, 4),
        variables=(("HOME", "/home/app"), ("A", "b=c"), ("PATH", "/opt")),
    )  # fmt: skip
    assert find(new(), path, tmp_path) == disk
    assert [path.name for path in disk.parent.iterdir() if "layer" in path.name] == []


@pytest.mark.parametrize(
    ("user", "found"),
    [
        ("", (0, (0,))), ("0", (0, (0,))), ("101", (101, (102, 4))), ("app:4", (101, (4,))),
        ("7:logs", (7, (4,))), ("7", (7, (0,))), ("root", (0, (0,))),
    ],
)  # fmt: skip
def test_a_user_is_found_by_name_or_number(user, found, tmp_path, new):
    disk = find(new(), layout(tmp_path / "image", [USERS], User=user), tmp_path)
    made = container.read(disk)
    assert (made.user, made.groups) == found


@pytest.mark.parametrize("user", ["nobody", "app:nobody", "bad", "9" * 5000, "app\n", "-1"])
def test_a_user_that_is_not_there_is_refused(user, tmp_path, new):
    with pytest.raises(ContainerError, match="is not in its /etc/"):
        find(new(), layout(tmp_path / "image", [USERS], User=user), tmp_path)


def change(path, name, change):
    (path / name).write_text(json.dumps(change(json.loads((path / name).read_text()))))


def manifests(listed):
    return lambda index: {**index, "manifests": listed(index["manifests"])}


def blob(path, number=0):
    return sorted((path / "blobs/sha256").iterdir(), key=lambda one: -one.stat().st_size)[number]


FAULTS = {
    "a layer is damaged": (
        lambda path: blob(path).write_bytes(gzip.compress(bytes(100_000))), "is damaged"
    ),
    "a layer is cut": (
        lambda path: blob(path).write_bytes(blob(path).read_bytes()[:500]), "unpacked|damaged"
    ),
    "a layer is missing": (lambda path: blob(path).unlink(), "is missing"),
    "a manifest is damaged": (lambda path: blob(path, 1).write_text("{}"), "is damaged"),
    "its index is no JSON": (
        lambda path: (path / "index.json").write_text("{"), "is no JSON"
    ),
    "its index is deep": (
        lambda path: (path / "index.json").write_text("[" * 100_000), "is no JSON"
    ),
    "its index is a list": (lambda path: (path / "index.json").write_text("[]"), "holds 0 images"),
    "its index is endless": (
        lambda path: (path / "index.json").write_text(" " * (9 << 20)), "more than 8 MiB"
    ),
    "it is for another machine": (
        lambda path: change(path, "index.json", manifests(
            lambda all_: [{**all_[0], "platform": {"architecture": "s390x"}}]
        )), "is for s390x, and the VM is",
    ),
    "it holds two": (
        lambda path: change(path, "index.json", manifests(
            lambda all_: [
                {**all_[0], "annotations": {"org.opencontainers.image.ref.name": name}}
                for name in ("app", "db")
            ]
        )), "holds 2 images: app, db",
    ),
    "it names another digest": (
        lambda path: change(path, "index.json", manifests(
            lambda all_: [{**all_[0], "digest": "sha256:../../../etc/passwd"}]
        )), "names no manifest",
    ),
    "there is no index": (lambda path: (path / "index.json").unlink(), "does not exist"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_an_image_with_a_fault_is_refused_and_leaves_nothing(fault, tmp_path, new):
    spoil, words = FAULTS[fault]
    path = layout(tmp_path / "image", [layer(("x", os.urandom(50_000)))], Cmd=["x"])
    spoil(path)
    with pytest.raises(VmPortsError, match=words) as got:
        find(new(), path, tmp_path)
    assert isinstance(got.value, (ContainerError, ImageError, GuestNotFoundError))
    assert is_empty(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"hello", "no tar of a container image"), (layer(("x", b"")), "neither index.json nor"),
        (gzip.compress(b"hello"), "no tar of a container image"),
        (layer(("manifest.json", b'[{"Config": "../c", "Layers": []}]')), "outside itself"),
        (layer(("manifest.json", b'[{"Config": 7, "Layers": []}]')), "names no configuration"),
        (layer(("manifest.json", b'[{"Config": "c", "Layers": []}]')), "its c is missing"),
        (layer(("manifest.json", b'[{"Config": "c"}]'), ("c", b'{"rootfs":{"diff_ids":["x"]}}')),
         "does not name each"),
        (layer(("manifest.json", json.dumps([{"Config": "c", "Layers": ["l"] * 600}]).encode())),
         "600 layers"),
    ],
)  # fmt: skip
def test_a_file_that_is_none_is_refused(text, words, tmp_path, new):
    (tmp_path / "app.tar").write_bytes(text)
    with pytest.raises(ContainerError, match=words):
        find(new(), tmp_path / "app.tar", tmp_path)
    assert is_empty(tmp_path)


def test_what_unpacks_to_more_than_all_images_may_take_is_refused(tmp_path, new):
    path = layout(tmp_path / "image", [layer((str(n), bytes(3 << 20))) for n in range(4)])
    with pytest.raises(ImageError, match="raise images_size"):
        find(new(size=8), path, tmp_path)
    path = archive(tmp_path / "app.tar", [layer((str(n), bytes(3 << 20))) for n in range(4)])
    with pytest.raises(ContainerError, match="raise images_size"):
        find(new(size=8), path, tmp_path)
    assert is_empty(tmp_path)


def test_attestations_beside_an_image_are_no_image(tmp_path, new):
    path = layout(tmp_path / "image", [layer(("x", b"y"))])
    change(path, "index.json", manifests(lambda all_: [
        *all_,
        {**all_[0], "annotations": {"vnd.docker.reference.type": "attestation-manifest"}},
        {**all_[0], "platform": {"architecture": "unknown", "os": "unknown"}},
        {**all_[0], "platform": {"architecture": "s390x"}},
    ]))  # fmt: skip
    assert content(find(new(), path, tmp_path)) == {"x": b"y"}


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["as it is", "compressed"])
def test_a_containerdisk_is_the_disk_that_it_holds(pack, tmp_path, new):
    path = layout(tmp_path / "image", [layer("disk", ("disk/vm.img", pack(BOOT)))])
    disk = find(new(), path, tmp_path)
    assert (disk.suffix, disk.read_bytes()) == (".raw", BOOT)
    found = Guest.oci(path, ssh=True, firmware="uefi", memory=700).at(disk)
    assert (found.prepared, found.kernel_path, found.container, found.memory) == (
        False, None, None, 700,
    )  # fmt: skip
    assert (found.root_disk.path, found.root_disk.firmware, found.root_disk.ssh) == (
        disk, "uefi", True,
    )  # fmt: skip
    for said in ({"setup": "true"}, {"files": {"a": "/b"}}):
        with pytest.raises(SettingError, match="neither files nor setup"):
            Guest.oci(path, **said).at(disk)


def test_a_containerdisk_with_several_disks_is_refused(tmp_path, new):
    path = layout(tmp_path / "image", [layer(("disk/a.img", BOOT), ("disk/b.img", BOOT))])
    with pytest.raises(ContainerError, match=r"holds one disk in its folder disk, and this one a"):
        find(new(), path, tmp_path)


def test_what_only_a_disk_takes_is_refused_for_a_container(tmp_path, new):
    path = layout(tmp_path / "image", [USERS], **SERVES)
    disk = find(new(), path, tmp_path)
    for said in ({"user_data": {"a": 1}}, {"firmware": "uefi"}, {"ssh": True}):
        with pytest.raises(SettingError, match="holds no disk"):
            Guest.oci(path, **said).at(disk)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"ports": "eighty"}, "ports"), ({"ports": [70000]}, "not within"),
        ({"env": {"": "x"}}, "env"), ({"env": {"A": 1}}, "env"), ({"env": {"A=": "x"}}, "env"),
        ({"command": [1]}, "command"), ({"entrypoint": "x"}, "no such keyword"),
        ({"firmware": "efi"}, "firmware"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_is_fetched(said, words, tmp_path):
    with pytest.raises(SettingError, match=words):
        Guest.oci(tmp_path / "app.tar", **said)


@pytest.mark.parametrize(
    ("written", "reference", "path"),
    [
        ("nginx:1.27", "docker://nginx:1.27", None), ("nginx", "docker://nginx", None),
        ("registry.example:5000/team/app@sha256:" + "ab" * 32,
         "docker://registry.example:5000/team/app@sha256:" + "ab" * 32, None),
        ("docker://quay.io/app", "docker://quay.io/app", None),
        ("containers-storage:app", "containers-storage:app", None),
        ("nginx.tar", None, "nginx.tar"), ("./app", None, "./app"), ("/a/b:c", None, "/a/b:c"),
        ("oci:build/app", None, "build/app"), ("docker-archive:a.tar", None, "a.tar"),
    ],
)  # fmt: skip
def test_a_reference_is_told_from_a_path(written, reference, path):
    found = source.read_container(written)
    assert (found.reference, None if found.path is None else str(found.path)) == (
        reference, path if path is None else str(source.Path(path)),
    )  # fmt: skip


@pytest.mark.parametrize("written", ["", "  ", "Nginx", "-rm", "app:", "a b", "--help", "a//b"])
def test_what_is_neither_is_refused(written):
    with pytest.raises(SettingError, match="a reference as nginx"):
        source.read_container(written)


def test_a_service_s_words_go_through_the_shell_unchanged(tmp_path):
    odd = ("it's", 'a "b" $HOME `id` \\', "", "two\nlines", "ü")
    made = container.Container(("run", *odd), (("A", odd[1]), ("B.C", odd[3])), "/", 7, (8, 9))
    script = made.service(ARCHITECTURE).decode()
    script = script.replace("exec /bin/busybox env -i", "printf '%s\\0'")
    words = subprocess.run(["sh"], input=script, capture_output=True, text=True, check=True).stdout
    assert words.split("\0")[:-1] == [
        "HOSTNAME=vmports", f"PATH={container._PATH}", f"A={odd[1]}", f"B.C={odd[3]}",
        f"/vmports/{ARCHITECTURE.agent}", "enter", "/vmports/disk", "/", "7", "8,9", "run", *odd,
    ]  # fmt: skip


def test_without_mke2fs_it_is_said_what_is_to_be_installed(tmp_path, new, monkeypatch):
    monkeypatch.setattr(surroundings, "_which", lambda *_, **__: None)
    with pytest.raises(HostError, match="install e2fsprogs"):
        find(new(), layout(tmp_path / "image", [USERS]), tmp_path)
    assert is_empty(tmp_path)


# By skopeo, from a registry of the test's own.


def publish(server, name, layers, tag="1", **config):
    """Serve an image as a registry does; source: the OCI distribution specification."""
    blobs, said = parts(layers, config)
    server.files["/v2/"] = b"{}"
    for one, data in blobs.items():
        server.files[f"/v2/{name}/blobs/{one}"] = data
    manifest = blobs[said["digest"]]
    for at in (tag, said["digest"]):
        server.files[f"/v2/{name}/manifests/{at}"] = manifest
        server.types[f"/v2/{name}/manifests/{at}"] = said["mediaType"]
    return f"127.0.0.1:{server.server_port}/{name}:{tag}", said["digest"]


@pytest.fixture
def registry(skopeo):
    with image_server.serving() as server:
        yield server


def test_a_reference_is_looked_up_once_a_day_fetched_and_kept(registry, new, tmp_path, said):
    where, _ = publish(registry, "team/app", [layer(("x", b"one"))], **SERVES | {"User": ""})
    disk = find(new(), where, tmp_path)
    assert content(disk) == {"x": b"one"}
    assert container.read(disk).command == ("serve", "--port", "80")
    before = len(registry.asked)
    assert find(new(), where, tmp_path) == disk
    assert len(registry.asked) == before
    publish(registry, "team/app", [layer(("x", b"two"))])
    assert content(find(new(), where, tmp_path, fresh=True)) == {"x": b"two"}
    assert any("is another image now" in line for line in said)


def test_a_pinned_reference_is_never_looked_up(registry, new, tmp_path):
    where, pinned = publish(registry, "app", [layer(("x", b"one"))])
    publish(registry, "app", [layer(("x", b"two"))])
    disk = find(new(), f"{where.rpartition(':')[0]}@{pinned}", tmp_path)
    assert content(disk) == {"x": b"one"}
    registry.files.clear()
    assert find(new(), f"{where.rpartition(':')[0]}@{pinned}", tmp_path) == disk


@pytest.mark.parametrize("fault", ["no image", "no server", "another layer", "silent blob"])
def test_what_cannot_be_had_ends_in_one_line_and_leaves_nothing(fault, registry, new, tmp_path):
    where, _ = publish(registry, "app", [layer(("x", os.urandom(10_000)))])
    if fault == "no image":
        where = where.replace("app", "other")
    elif fault == "no server":
        where = "127.0.0.1:1/app:1"
    else:
        blobs = [one for one in registry.files if "/blobs/" in one]
        largest = max(blobs, key=lambda one: len(registry.files[one]))
        if fault == "another layer":
            registry.files[largest] = gzip.compress(os.urandom(10_000))
        else:
            registry.broken[largest] = image_server.status(500)
    with pytest.raises(FetchError, match="cannot be fetched") as got:
        find(new(), where, tmp_path)
    assert len(str(got.value).splitlines()) == 1
    assert is_empty(tmp_path)


def test_an_image_that_is_here_is_used_where_its_registry_does_not_answer(
    registry, new, tmp_path, said, monkeypatch
):
    where, _ = publish(registry, "app", [layer(("x", b"one"))])
    disk = find(new(), where, tmp_path)
    registry.files.clear()
    now = clock.wall()
    monkeypatch.setattr(clock, "wall", lambda: now + 2 * 86400)
    assert find(new(), where, tmp_path) == disk
    assert any("the image that is here is used" in line for line in said)


def test_without_skopeo_it_is_said_how_to_do_without(tmp_path, new, monkeypatch):
    monkeypatch.setattr(surroundings, "_which", lambda *_, **__: None)
    with pytest.raises(HostError, match="save the image and name the file"):
        find(new(), "nginx:1.27", tmp_path)


def test_the_ports_of_a_guest_are_each_test_s_own(pytester, tmp_path):
    layout(tmp_path / "image", [USERS], **SERVES)
    pytester.makeconftest(
        f"""
        import pytest
        from pytest_vmports import Guest

        @pytest.fixture(scope="session")
        def vmports_guest():
            return Guest.oci({str(tmp_path / "image")!r}, ports=[80, "53/udp"])
        """
    )
    pytester.makepyfile(
        """
        import pytest

        def test_alone(exposed_ports):
            assert [str(port.internal) for port in exposed_ports.ports] == ["80", "53"]

        @pytest.mark.vmports(443, 80)
        def test_beside(exposed_ports):
            assert [port.internal for port in exposed_ports.ports] == [443, 80, 53]

        @pytest.mark.vmports(443, guest="alpine")
        def test_other(exposed_ports):
            assert [port.internal for port in exposed_ports.ports] == [443]
        """
    )
    pytester.runpytest_inprocess().assert_outcomes(passed=3)


def test_a_container_is_named_by_its_transport_in_a_setting_and_on_the_command_line(
    tmp_path, monkeypatch, capsys, qemu_binary
):
    path = layout(tmp_path / "image", [layer(("x", b"y"))])
    made = options.resolve(options.NoConfig(), {"guest": f"oci:{path}"}, "x").guest
    assert made().source == source.read_container(f"oci:{path}")
    again = options.resolve(options.NoConfig(), {"guest": f"oci:{path}"}, "x").guest
    assert again == made
    monkeypatch.setenv("VMPORTS_IMAGES_DIR", str(tmp_path / "images"))
    assert main(["images", "pull", f"oci:{path}"]) == 0
    disk = source.Path(capsys.readouterr().out.split(": ", 1)[1].strip())
    assert content(disk) == {"x": b"y"}
    assert main(["images", "pull", f"oci:{tmp_path}/none.tar"]) == 1
