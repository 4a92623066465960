"""The pages' examples, run as they stand there."""

import re
from pathlib import Path

import pytest
from container_images import archive, busybox, layer
from vm_helpers import PACKAGE

from pytest_vmports.guests.alpine import find_images

ANSWER = b"#!/bin/sh\nread -r line\nprintf 'HTTP/1.1 200 OK\\r\\n\\r\\n'\n"
DOCS = Path(__file__).resolve().parents[2] / "docs"


# Each example has a guest of its own, and most boot more than once.
@pytest.mark.slow
@pytest.mark.parametrize("page", ["vm.md", "guests.md", "hardware.md"])
def test_the_examples_of_a_page_work(page, pytester, qemu_binary, vm_factory):
    """Those that begin with a file's name belong together, and to a guest that boots slowly."""
    examples = re.findall(
        r"^```python\n(?!# )(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL
    )
    (pytester.path / "app.conf").write_text("colour = blue\n")
    kernel, initrd = find_images()
    (pytester.path / "vmlinuz").symlink_to(kernel)
    (pytester.path / "initrd.img").symlink_to(initrd)
    if page == "guests.md":
        with vm_factory(guest="alpine-disk", wait_for="none") as builder:
            builder.run(f"mkdir /root/made; cd /root/made; {PACKAGE}")
            made = "/root/made/repo/x86_64/hello-1.0-r0.apk"
            builder.get(made, pytester.mkdir("build") / "hello.apk")
        serve = ["nc", "-lk", "-p", "80", "-e", "/bin/answer"]
        archive(pytester.path / "nginx.tar", [busybox(), layer(("bin/answer", ANSWER))], Cmd=serve)
    pytester.makepyfile(**{f"test_{n}": text for n, text in enumerate(examples)})
    # Each example has a guest of its own, so a template of it would serve one test.
    words = ["-p", "no:cacheprovider", "--vmports-template=no"]
    outcomes = pytester.runpytest_subprocess(*words).parseoutcomes()
    assert set(outcomes) == {"passed"}
    assert outcomes["passed"] >= len(examples)
