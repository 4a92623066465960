"""The folders of examples/ are projects of their own, and run as whoever copies one runs it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import debian_image
import image_server
import pytest
from cached import cached

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
# The second is where Go's own installer puts it.
GO = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
# What a run in the folder itself leaves there.
LEFT = ("__pycache__", ".*cache", "build", ".build.lock", "*.o", "*.ko", ".*.cmd")
# A module with a bug that nobody knows of.
BUG = """
import pytest

@pytest.mark.vmports
def test_it_can_be_read(vm_with_ports):
    vm_with_ports.run("insmod /modules/faulty.ko; cat /proc/faulty || true")
"""

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path):
    """Return a function that runs an example's copy, and returns how many tests there passed."""

    def run(name, *words, **more):
        folder = tmp_path / name
        if not folder.exists():
            shutil.copytree(EXAMPLES / name, folder, ignore=shutil.ignore_patterns(*LEFT))
        environment = {
            key: value for key, value in os.environ.items()
            if not key.startswith(("PYTEST_", "VMPORTS_", "COV_"))
        }  # fmt: skip
        paths = [str(ROOT), *filter(None, [environment.get("PYTHONPATH")])]
        environment |= {
            "PATH": f"{Path(sys.executable).parent}:{environment['PATH']}",
            "PYTHONPATH": os.pathsep.join(paths),
            "VMPORTS_CACHE_DIR": str(tmp_path / "templates"),
        }
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--durations=5"]
        done = subprocess.run(
            [*command, *words], cwd=folder, env=environment | more, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        print(done.stdout, done.stderr)  # for the report of a test that fails
        last = done.stdout.splitlines()[-1].partition(" in ")[0]
        return {kind: int(number) for number, kind in re.findall(r"(\d+) (\w+)", last)}

    yield run
    shutil.rmtree(tmp_path / "templates", ignore_errors=True)  # pytest would keep some gigabytes


@pytest.fixture
def mirrored(tmp_path, debian, gvproxy_089):
    """Return a function that serves a Debian in the place of the distribution's own server.

    It returns the environment of a run that asks there.
    """
    assert debian.disk.exists()  # what builds images is there
    with contextlib.ExitStack() as stack:

        def mirrored(kind):
            disk = debian_image.image(kind).disk
            server = stack.enter_context(image_server.serving_debian(disk))
            return {
                "VMPORTS_IMAGE_MIRROR": f"debian={server.url}",
                "VMPORTS_IMAGES_DIR": str(tmp_path / "images"),
                "VMPORTS_GVPROXY": str(gvproxy_089),
            }

        yield mirrored
    shutil.rmtree(tmp_path / "images", ignore_errors=True)


def test_the_web_server(run, missing):
    if GO is None:
        missing("Go", "install it")
    path = f"{Path(GO).parent}:{os.environ['PATH']}"
    assert run("web-server", "-n", "2", PATH=path) == {"passed": 8}


def test_the_three_vms(run):
    assert run("three-vms", "-n", "2") == {"passed": 5}


def test_the_kernel_module_and_one_that_has_a_bug(run, tmp_path, missing):
    lacking = [name for name in ("apt-get", "gcc", "make") if shutil.which(name) is None]
    if lacking or debian_image.release("ID") != "debian":
        missing("what builds a kernel module", f"install {', '.join(lacking)} on a Debian")
    script = EXAMPLES / "kernel-module" / "get-kernel"
    source = script.read_bytes() + debian_image.release("VERSION_CODENAME").encode()

    def fetch(folder):
        subprocess.run([script, folder], check=True)

    kernel = cached("example_kernel", source, fetch, days=7)
    assert run("kernel-module", "-n", "2", KERNEL=str(kernel)) == {"passed": 6}
    (tmp_path / "kernel-module" / "test_bug.py").write_text(BUG)
    outcome = run("kernel-module", "test_bug.py", KERNEL=str(kernel))
    assert outcome == {"failed": 1, "error": 1}


def test_nginx_and_postgresql(run, mirrored):
    assert run("nginx-postgresql", **mirrored("services")) == {"passed": 6}


def test_the_ansible_role(run, mirrored):
    assert run("ansible-role", **mirrored("plain")) == {"passed": 5}
