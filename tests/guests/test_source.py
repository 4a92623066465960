"""What a user writes for an image, and what is meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_vmports import Guest
from pytest_vmports.errors import SettingError
from pytest_vmports.guests import catalogue, source
from pytest_vmports.settings import options

DIGEST = "ab" * 32


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("debian-13", "debian-13"), ("Debian-13", "debian-13"), ("debian13", "debian-13"),
        ("debian:trixie", "debian-13"), ("debian-trixie", "debian-13"),
        ("ubuntu-noble", "ubuntu-24.04"), ("ubuntu-26.04", "ubuntu-26.04"),
        ("fedora-44", "fedora-44"), ("alpine-3.23", "alpine-3.23"),
    ],
)  # fmt: skip
def test_a_name_is_that_of_a_release(written, name):
    assert source.read(written).name == name


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("debian", "did you mean debian-1"), ("debain-13", "did you mean debian-13"),
        ("debian-15", "names are|Names are"), ("centos-9", "names are|Names are"), ("", "name an"),
        ("http://a.example/x.img", "give its sha256"), ("ftp://a.example/x", "begin with https"),
        ("https:///x", "names no host"), (f"https://a.example/x#md5={DIGEST}", "only sha256="),
        ("file://host/x", "names no host"),
    ],
)  # fmt: skip
def test_what_means_nothing_is_refused_with_what_may_be_meant(written, words):
    with pytest.raises(SettingError, match=words):
        source.read(written)


def test_a_digest_stands_beside_an_address_or_behind_it():
    for found in (
        source.read("http://a.example/x.img", DIGEST.upper()),
        source.read(f"http://a.example/x.img#sha256={DIGEST}"),
        source.read(f"http://a.example/x.img#sha256={DIGEST}", DIGEST),
    ):
        assert (found.url, found.sha256, found.name) == ("http://a.example/x.img", DIGEST, "x.img")
    with pytest.raises(SettingError, match="are not the same"):
        source.read(f"http://a.example/x.img#sha256={DIGEST}", "cd" * 32)
    with pytest.raises(SettingError, match="64 hexadecimal digits"):
        source.read("debian-13", "abc")


def test_a_file_is_named_by_path_or_address():
    assert source.read("images/x.qcow2.xz").path == Path("images/x.qcow2.xz")
    assert source.read("file:///srv/a%20b.img").path == Path("/srv/a b.img")


def test_every_name_that_is_listed_is_one():
    assert [catalogue.release(name).name for name in catalogue.names()] == catalogue.names()


def guest_of(value):
    return options.resolve(options.NoConfig(), {"guest": value}, "the test").guest


def test_the_setting_takes_names_and_addresses_too():
    assert guest_of("debian-13") == Guest.image("debian-13")
    address = f"http://a.example/x.img#sha256={DIGEST}"
    assert guest_of(address) == Guest.image(address)
    for wrong in ("debian", "debain-13", "http://a.example/x.img"):
        with pytest.raises(SettingError, match=r"debian-13|sha256"):
            guest_of(wrong)


def test_a_mirror_is_of_a_distribution_that_is_known():
    def read(value):
        return options.resolve(options.NoConfig(), {"image_mirror": value}, "it").image_mirror

    url = "http://127.0.0.1:8080/images"
    assert read(f"debian={url} ubuntu={url}") == read({"debian": url, "ubuntu": url})
    for wrong in ("debain=http://a", "debian", "debian=/srv", "debian=ftp://a"):
        with pytest.raises(SettingError, match="write a distribution and an address"):
            read(wrong)
