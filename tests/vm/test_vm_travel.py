"""A template that one user built is used by another, elsewhere, with the same QEMU."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from namespaces import what_it_takes

from pytest_vmports.pool.packed import pack
from pytest_vmports.pool.template import Template

CHECKOUT = Path(__file__).resolve().parent.parent.parent
USER = "4242"
TEST = """
import pytest

@pytest.mark.vmports(8080, files={"page": "/srv/page"}, setup="nc -lk -p 8080 -e cat /srv/page &",
                     accel="tcg")
def test_it(vm_with_ports):
    with vm_with_ports.connect(8080) as connection:
        assert connection.recv(16) == b"hello"
"""
# Run by sh as the first process of a mount namespace. Its arguments: the new root, the checkout,
# Python's prefix, its packages, the project, the store; a user's number, or nothing; the command.
ENTER = r"""
set -eu
root=$1 checkout=$2 python=$3 packages=$4 project=$5 store=$6 user=$7
shift 7
mount -t tmpfs -o mode=755 none "$root"
cd "$root"
mkdir checkout packages project store tmp
for folder in bin sbin lib lib32 lib64 usr etc boot dev proc sys; do
  if [ -h "/$folder" ]; then cp -P "/$folder" .
  elif [ -d "/$folder" ]; then mkdir "$folder"; mount --rbind "/$folder" "$folder"
  fi
done
mount --bind "$checkout" checkout
# It knows where its libraries are.
[ -d ".$python" ] || { mkdir -p ".$python"; mount --bind "$python" ".$python"; }
mount --bind "$packages" packages
mount --bind "$store" store
cp -R "$project"/. project
[ -z "$user" ] || chown -R "$user:$user" project tmp
exec chroot ${user:+--userspec="$user:$user"} . env -i HOME=/project TMPDIR=/tmp PATH="$PATH" \
  PYTHONPATH=/checkout:/packages PYTHONDONTWRITEBYTECODE=1 VMPORTS_REPORT=yes "$@"
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory, qemu_binary):
    """The tests of a project, in their own folder."""
    folder = tmp_path_factory.mktemp("travel") / "project"
    folder.mkdir()
    (folder / "test_it.py").write_text(TEST)
    (folder / "page").write_text("hello")
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider -p no:randomly\n")
    return folder


@pytest.fixture(scope="module")
def filled(project):
    """A store that a run of the project has filled; that run's cache is beside it."""
    store = project.parent / "store"
    assert made(at_home(project, store, project.parent / "cache")) == 1
    return store


def at_home(project, store, cache, **more):
    """Run the project's tests as this user does; return what was printed."""
    environment = {
        "VMPORTS_CACHE_DIR": cache, "VMPORTS_CACHE_STORE": store, "VMPORTS_REPORT": "yes",
        "PYTHONPATH": CHECKOUT, **more,
    }  # fmt: skip
    return told(
        [sys.executable, "-m", "pytest"], cwd=project,
        env=os.environ | {name: str(value) for name, value in environment.items()},
    )  # fmt: skip


def elsewhere(project, store, root):
    """Run them as another user in a chroot that sees everything in other places."""
    root.mkdir()
    python = Path(sys.executable).resolve()
    namespace = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    places = [root, CHECKOUT, sys.base_prefix, sysconfig.get_path("purelib"), project, store]
    user = USER if os.geteuid() == 0 else ""
    settings = ["VMPORTS_CACHE_STORE=/store readonly"]
    command = [*settings, "sh", "-c", f"cd /project && exec {python} -m pytest"]
    return told([*namespace, "sh", "-c", ENTER, "sh", *map(str, places), user, *command], cwd="/")


def told(command, **keywords):
    return subprocess.run(
        command, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        **keywords,
    ).stdout  # fmt: skip


def made(output):
    """Return how many templates a run has made, by its own report."""
    assert "1 passed" in output, output
    return int(re.search(r"templates made +(\d+)", output)[1])


def test_what_one_user_built_is_used_by_another_in_another_place(
    missing, project, filled, tmp_path
):
    what_it_takes(missing)
    before = [*filled.iterdir()]
    assert len(before) == 1
    assert made(elsewhere(project, filled, tmp_path / "root")) == 0
    assert [*filled.iterdir()] == before


def test_it_is_not_used_with_another_qemu_though_that_says_the_same_of_itself(
    project, filled, tmp_path, qemu_binary
):
    (tmp_path / "bin").mkdir()
    other = tmp_path / "bin" / qemu_binary.name
    shutil.copy(qemu_binary, other)
    with other.open("ab") as file:
        file.write(b"another build")
    # Where it looks for its firmware and its modules: beside itself.
    for name in ("share", "lib"):
        (tmp_path / name).symlink_to(qemu_binary.parent.parent / name)
    store = tmp_path / "store"
    shutil.copytree(filled, store)
    assert made(at_home(project, store, tmp_path / "cache", VMPORTS_QEMU=other)) == 1
    assert len([*store.iterdir()]) == 2


def test_one_that_dies_when_it_is_restored_is_given_up_and_said_and_booted(
    project, filled, tmp_path
):
    """Its bytes are those that were packed, so that nothing but a trial tells."""
    (packed,) = filled.iterdir()
    (folder,) = (path for path in (project.parent / "cache").iterdir() if path.is_dir())
    broken = tmp_path / folder.name
    shutil.copytree(folder, broken)
    (broken / "ram").write_bytes(b"\xff" * (broken / "ram").stat().st_size)
    (tmp_path / "store").mkdir()
    with (tmp_path / "store" / packed.name).open("wb") as file:
        pack(Template(broken, lock=-1), file)
    output = at_home(project, tmp_path / "store", tmp_path / "cache")
    assert made(output) == 1
    told = [line for line in output.splitlines() if "is not used" in line]
    assert len(told) == 1 and told[0].endswith("it is booted instead"), output
