"""cloud-init: what a user may give, the seed that is written, and what the console tells of it."""

import email
import io
import json

import pycdlib
import pytest
import yaml

from pytest_vmports import Guest
from pytest_vmports.errors import GuestNotFoundError, HostError, SeedError
from pytest_vmports.guests import cloud_init
from pytest_vmports.guests.cloud_init import Seed, Verdict, read_seed, write_seed

CONFIG = "#cloud-config\npackages: [nginx]\n"
FINISHED = {"v1": {"datasource": "DataSourceNoCloud [seed=/dev/vdb]", "errors": []}}


def said(result):
    return f"\r\nvmports-cloud-init: {json.dumps(result)} :vmports\r\n"


def test_a_text_a_path_bytes_and_a_mapping_mean_the_same(tmp_path):
    (tmp_path / "user-data").write_text(CONFIG)
    given = [CONFIG, tmp_path / "user-data", str(tmp_path / "user-data"), CONFIG.encode()]
    assert {read_seed(data, None, None).user_data for data in given} == {CONFIG.encode()}
    mapping = read_seed({"packages": ["nginx"]}, None, None).user_data
    assert mapping.startswith(b"#cloud-config\n")
    assert yaml.safe_load(mapping) == yaml.safe_load(CONFIG)


@pytest.mark.parametrize(
    "text",
    ["#!/bin/sh\n: {[\n", "Content-Type: multipart/mixed\n\n{[", "#include\nfile:///x: [",
     "## template: jinja\n#cloud-config\n{{ x }}: {{{", b"\x1f\x8b\x08rest"],
)  # fmt: skip
def test_scripts_mime_and_what_else_cloud_init_takes_are_passed_through(text):
    data = text if isinstance(text, bytes) else text.encode()
    assert read_seed(text, None, None).user_data == data


@pytest.mark.parametrize(
    ("given", "named", "problem"),
    [
        ((CONFIG + "runcmd: [a\nb: c\n", None, None), "user_data", "it is not YAML"),
        (("#cloud-config\n- a\n", None, None), "user_data", "it is a list and not a mapping"),
        (("packages: [nginx]\n", None, None), "user_data", "cloud-init would ignore it"),
        ((None, "instance-id: [\n", None), "meta_data", "it is not YAML"),
        ((None, None, "version: 2\n  ethernets: {\n"), "network_config", "it is not YAML"),
    ],
)
def test_data_that_cloud_init_cannot_read_is_named(given, named, problem):
    with pytest.raises(SeedError) as caught:
        read_seed(*given)
    assert caught.value.name == named and problem in str(caught.value)


def test_the_line_of_a_mistake_is_told():
    with pytest.raises(SeedError, match="line 3"):
        read_seed("#cloud-config\na: 1\n b: [\n", None, None)


@pytest.mark.parametrize("name", ["user-data.yaml", "/absent/user-data"])
def test_a_file_that_is_missing_is_told_at_once(name):
    with pytest.raises(GuestNotFoundError, match=f"user_data names the file .*{name}, which does"):
        read_seed(name, None, None)


@pytest.mark.parametrize("module", ["yaml", "pycdlib"])
def test_without_the_extra_the_error_says_what_to_install(module, monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(HostError, match=rf"needs {module}.*pip install 'pytest-vmports\[cloud\]'"):
        write_seed(read_seed(CONFIG, None, None).files(), tmp_path / "seed.iso")


def read_iso(path):
    """Return the label and the files of an image, by the names that Linux shows."""
    iso = pycdlib.PyCdlib()
    iso.open(str(path))
    found = {}
    for child in iso.list_children(rr_path="/"):
        if child.is_file():
            out = io.BytesIO()
            name = child.rock_ridge.name().decode()
            iso.get_file_from_iso_fp(out, rr_path=f"/{name}")
            found[name] = out.getvalue()
    label = iso.pvd.volume_identifier.decode().strip()
    iso.close()
    return label, found


def test_the_seed_has_the_label_and_the_files_that_cloud_init_looks_for(tmp_path):
    seed = Seed(CONFIG.encode(), b"instance-id: mine\n", b"version: 2\n")
    write_seed(seed.files(), tmp_path / "seed.iso")
    label, files = read_iso(tmp_path / "seed.iso")
    assert label == "cidata"
    assert sorted(files) == ["meta-data", "network-config", "user-data", "vendor-data"]
    assert files["user-data"] == CONFIG.encode()
    assert files["meta-data"] == b"instance-id: mine\n"
    assert files["network-config"] == b"version: 2\n"


def test_a_seed_without_files_of_the_users_still_makes_a_new_instance():
    files = Seed().files()
    assert "network-config" not in files
    assert yaml.safe_load(files["user-data"]) == {}
    made = yaml.safe_load(files["meta-data"])
    assert made["local-hostname"] == "vmports"
    assert made["instance-id"] != yaml.safe_load(Seed(b"#!x").files()["meta-data"])["instance-id"]


def test_the_key_for_ssh_is_in_the_script_and_no_other_file():
    files = Seed(CONFIG.encode()).files("ssh-ed25519 AAAA me\n")
    assert [name for name, data in files.items() if b"ssh-ed25519 AAAA me" in data] == [
        "vendor-data"
    ]
    assert b"key=''" in Seed().files()["vendor-data"]


def test_the_vendor_data_is_settings_and_a_script_that_runs_first():
    whole = email.message_from_bytes(Seed().files("key", "agent")["vendor-data"])
    config, script = whole.get_payload()
    assert config.get_content_type() == "text/cloud-config"
    assert yaml.safe_load(config.get_payload()) == {"ssh_genkeytypes": ["ed25519"]}
    assert script.get_content_type() == "text/cloud-boothook"
    assert script.get_payload().startswith("#cloud-boothook\n#!/bin/sh\n")
    assert "key='key'" in script.get_payload() and "\nagent\n" in script.get_payload()


@pytest.mark.parametrize(
    ("keywords", "ssh"),
    [({}, False), ({"user_data": CONFIG}, True), ({"user_data": CONFIG, "agent": True}, False),
     ({"user_data": CONFIG, "ssh": False}, False), ({"agent": True, "ssh": True}, True)],
)  # fmt: skip
def test_ssh_is_the_way_in_where_cloud_init_can_make_it_one(keywords, ssh, tmp_path):
    image = tmp_path / "disk.raw"
    image.write_bytes(b"x" * 1024)
    assert Guest.disk(image, **keywords).root_disk.ssh is ssh


def test_ssh_alone_makes_a_seed_and_a_plain_disk_none(tmp_path):
    image = tmp_path / "disk.img"
    image.write_bytes(b"x")
    assert Guest.disk(image).root_disk.seed is None
    assert Guest.disk(image, ssh=True).root_disk.seed == Seed()


def test_a_console_without_the_report_tells_nothing():
    assert cloud_init.verdict("Cloud-init v. 22.4.2 running 'init'\r\n") is None


def test_a_finished_cloud_init_is_recognised_and_its_errors_are_told():
    assert cloud_init.verdict("boot\n" + said(FINISHED)) == Verdict()
    failed = {"v1": {"errors": ["('scripts_user', RuntimeError('1 failures'))"]}}
    assert cloud_init.verdict(said(failed)).errors == (failed["v1"]["errors"][0],)


def test_a_report_torn_by_the_kernel_is_read_when_it_is_said_again():
    torn = said(FINISHED).replace('"errors"', '"err[ 9.1] random: crng init done\r\nors"')
    assert cloud_init.verdict(torn) is None or cloud_init.verdict(torn).errors == ()
    broken = said(FINISHED).replace('": []', "[ 9.1] usb\r\n")
    assert cloud_init.verdict(broken) is None
    assert cloud_init.verdict(broken + said(FINISHED)) == Verdict()


@pytest.mark.parametrize(
    "line",
    [
        "[FAILED] Failed to start cloud-init.service - Initial cloud-init job.",
        "[FAILED] Failed to start Execute cloud user/final scripts.",
        "[   21.1] cloud-init[301]: failed stage init",
        "OSError: [Errno 28] No space left on device: '/var/lib/cloud/data/x'",
    ],
)
def test_a_stage_that_cannot_run_is_found_on_the_console(line):
    reports = cloud_init.Reports()
    reports.feed(f"[  OK  ] Started x.\r\n{line}\r\nmore\r\n")
    assert reports.failure == line


def test_a_console_of_a_boot_that_goes_well_shows_no_failure():
    console = "[  OK  ] Finished cloud-init.service\r\n[FAILED] Failed to start foo.service\r\n"
    assert cloud_init.failure(console) is None
