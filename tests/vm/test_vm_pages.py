"""The site's pages, followed as a reader follows them."""

from __future__ import annotations

import os

import arm64_guest
import image_server
import pages
import pytest

from pytest_vmports.guests.alpine import find_images

# Pages whose files and commands need Debian's image, or one's own; others use the bundled guest.
WITH_DEBIAN = ("tutorial.md", "howto/image.md")
EMBEDDED = "howto/embedded.md"
# Pages with examples that other tests run: test_vm_docs.py.
ELSEWHERE = {"vm.md", "guests.md", "hardware.md"}
# There is no Docker here, nor anywhere to fetch an image from: this one starts nothing.
FAKE_DOCKER = "#!/bin/sh\necho fake-container\n"


def names_of_pages():
    docs = (str(page.relative_to(pages.DOCS)) for page in pages.DOCS.rglob("*.md"))
    return sorted([*docs, "../README.md"])


TO_FOLLOW = [
    name for name in names_of_pages() if any(
        block.title or block.kind == "console" for block in pages.blocks(pages.DOCS / name)
    )
]  # fmt: skip


@pytest.fixture
def project(tmp_path):
    """Return an empty folder that has what a reader brings along: a kernel and its initrd."""
    folder = tmp_path / "project"
    folder.mkdir()
    kernel, initrd = find_images()
    (folder / "vmlinuz").symlink_to(kernel)
    (folder / "initrd.img").symlink_to(initrd)
    return folder


def followed(page, folder, **environment):
    fakes = folder.parent / "fakes"
    fakes.mkdir()
    (fakes / "docker").write_text(FAKE_DOCKER)
    (fakes / "docker").chmod(0o755)
    home = {
        "VMPORTS_IMAGES_DIR": str(folder.parent / "images"), "PYTEST_ADDOPTS": "-p no:randomly",
        "PATH": f"{fakes}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    return pages.follow(pages.DOCS / page, folder, **home, **environment)


@pytest.mark.slow
def test_what_the_page_on_embedded_systems_says_comes_true(project, missing, qemu_binary):
    if lacking := arm64_guest.missing():
        missing("what makes and runs an arm64 guest", f"install {', '.join(lacking)}")
    kernel, initrd = arm64_guest.bundled()
    (project / "arm64").mkdir()
    (project / "arm64" / "Image").symlink_to(kernel)
    (project / "arm64" / "initrd.img").symlink_to(initrd)
    assert followed(EMBEDDED, project) == 2


@pytest.mark.parametrize("page", sorted({*TO_FOLLOW} - {*WITH_DEBIAN, EMBEDDED}))
def test_what_a_page_says_comes_true(page, project, shared_templates, qemu_binary):
    followed(page, project)


@pytest.mark.parametrize("page", names_of_pages())
def test_each_example_on_a_page_is_run_by_some_test(page):
    """A block of Python without a title shows how something is written, and no more than that."""
    if page in ELSEWHERE:
        return
    untitled = [
        one for one in pages.blocks(pages.DOCS / page) if one.kind == "python" and not one.title
    ]
    assert [one.line for one in untitled if "def test_" in one.text] == []


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_DEBIAN)
def test_what_a_page_on_debian_says_comes_true(page, project, debian, qemu_binary):
    (project / "build").mkdir()
    (project / "build" / "image.qcow2").symlink_to(debian.disk)
    with image_server.serving_debian(debian.disk) as server:
        assert followed(page, project, VMPORTS_IMAGE_MIRROR=f"debian={server.url}")
