"""What is to be copied for CIs: it is what the page shows, and its shell lines run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pytest_vmports.cli import ci
from pytest_vmports.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "docs" / "ci"
TESTS = """
import pytest

pytestmark = pytest.mark.vmports(8080, setup="nc -lk -p 8080 -e cat &", accel="tcg")

def test_answers(vm_with_ports):
    with vm_with_ports.connect(8080) as connection:
        connection.sendall(b"x")
        assert connection.recv(1) == b"x"

def test_fails(vm_with_ports):
    assert vm_with_ports.run("false").returncode == 0
"""
# Faked: what would change this machine, and what is not here. Each notes its words, and a fake
# sudo runs them; Python is the real one, but for pip, and tee where it adds to a file.
FAKE = """#!/bin/sh
echo "{name} $*" >>"$FAKES_SAID"
{then}
"""
FAKES = {
    "apt-get": "",
    "udevadm": "",
    "tee": '[ "$1" != -a ] || exec /usr/bin/tee "$@"; cat >/dev/null',
    "sudo": 'exec "$@"',
    "python": f'[ "$1 $2" = "-m pip" ] || exec {shlex.quote(sys.executable)} "$@"',
    # It runs what follows the image, with the variables that were given.
    "docker": """
while [ "$1" != python:3.12-bookworm ]; do
  if [ "$1" = --env ]; then export "$(echo "$2" | sed "s|=/project|=$PWD|")"; fi
  shift
done
shift
exec "$@"
""",
}


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """Return a function: what is printed for a CI in a project with some files."""

    def of(kind, shards=2, **files):
        project = tmp_path_factory.mktemp("project")
        for name, text in files.items():
            (project / name.replace("_", ".", 1)).write_text(text)
        return ci.workflow(kind, project, shards)

    return of


def substituted(text, values):
    """Return a text with GitHub's expressions replaced."""
    return re.sub(r"\$\{\{ *([\w.]+) *\}\}", lambda found: values[found[1]], text)


def github(text, project, shard, name="test"):
    """Return the shell lines of each step of a job, and its variables."""
    job = yaml.safe_load(text)["jobs"][name]
    values = {"github.workspace": str(project), "matrix.shard": str(shard)}
    steps = [substituted(step["run"], values) for step in job["steps"] if "run" in step]
    return steps, {name: substituted(str(one), values) for name, one in job.get("env", {}).items()}


def report(text, project, shard):
    """Likewise of the job that joins the shards' reports."""
    steps, given = github(text, project, shard, "report")
    return steps, {**given, "GITHUB_STEP_SUMMARY": str(project / "summary")}


def gitlab(text, project, shard):
    (job,) = yaml.safe_load(text).values()
    steps = [job["before_script"], job["script"], job["after_script"]]
    mine = {
        "CI_PROJECT_DIR": str(project), "CI_NODE_INDEX": str(shard),
        "CI_NODE_TOTAL": str(job["parallel"]),
    }  # fmt: skip
    given = {name: re.sub(r"\$(\w+)", lambda found: mine[found[1]], one)
             for name, one in job["variables"].items()}  # fmt: skip
    return ["\n".join(lines) for lines in steps], mine | given


def jenkins(text, project, shard):
    given = dict(re.findall(r"^ +(\w+) = ['\"](.*)['\"]$", text, re.MULTILINE))
    scripts = re.findall(r"sh '''\n(.*?)'''", text, re.DOTALL)
    return scripts, {
        name: one.replace("${env.WORKSPACE}", str(project)) for name, one in given.items()
    }


def container(text, project, shard):
    return [f"sh {shlex.quote(str(FILES / 'container.sh'))} -v"], {}


@pytest.fixture
def run(tmp_path, printed):
    """Return a function that runs the shell lines of a job, and what the fakes were told."""
    store = tmp_path / "store"

    def job(read, text, shard=1, files=()):
        project = tmp_path / f"{read.__name__}-{shard}"
        project.mkdir()
        (project / "test_it.py").write_text(TESTS)
        (project / "pytest.ini").write_text(
            "[pytest]\naddopts = -p no:randomly -p no:cacheprovider\n"
        )
        for file in files:
            shutil.copy(file, project)
        (project / ".vmports-store").mkdir()
        if store.exists():
            shutil.copytree(store, project / ".vmports-store", dirs_exist_ok=True)
        programs = tmp_path / f"fakes-{project.name}"
        programs.mkdir()
        for name, then in FAKES.items():
            (programs / name).write_text(FAKE.format(name=name, then=then))
            (programs / name).chmod(0o755)
        steps, given = read(text, project, shard)
        ours = {k: v for k, v in os.environ.items() if not k.startswith(("VMPORTS_", "PYTEST_"))}
        path = [programs, Path(sys.executable).parent, os.environ["PATH"]]
        environment = {
            **ours, "PATH": os.pathsep.join(map(str, path)), "PYTHONPATH": str(ROOT),
            "FAKES_SAID": str(project / "said"), "VMPORTS_CACHE_DIR": str(project / "cache"),
            **given,
        }  # fmt: skip
        output = ""
        for step in steps:
            done = subprocess.run(
                ["bash", "-e", "-o", "pipefail", "-c", step], cwd=project, env=environment,
                text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
            )  # fmt: skip
            output += done.stdout
            assert done.returncode == ("test_it.py::test_fails" in done.stdout), output
        shutil.copytree(project / ".vmports-store", store, dirs_exist_ok=True)
        return project, output, (project / "said").read_text()

    return job


def outcomes(output):
    found = re.findall(r"^=+ (?:(\d+) failed)?(?:, )?(?:(\d+) passed)? in ", output, re.MULTILINE)
    return [(int(failed or 0), int(passed or 0)) for failed, passed in found]


def made(output):
    found = re.findall(r"templates made +(\d+)", output)
    assert found, output
    return sum(map(int, found))


@pytest.mark.usefixtures("qemu_binary")
def test_the_lines_of_each_ci_run_all_tests_once_and_one_boot_serves_all_jobs(run, printed):
    """Shards and CIs have empty caches of their own, and a store that is kept between them."""
    whole = printed("github")
    first, second = (run(github, whole, shard) for shard in (1, 2))
    both = [*outcomes(first[1]), *outcomes(second[1])]
    assert sorted(both) == [(0, 1), (1, 0)], first[1] + second[1]
    assert made(first[1]) == 1 and made(second[1]) == 0
    for _, _, said in (first, second):
        assert "apt-get install -y --no-install-recommends qemu-system-x86 qemu-utils" in said
        assert "udevadm trigger" in said and "-m pip install" in said
    failed = first[0] if outcomes(first[1]) == [(1, 0)] else second[0]
    job = yaml.safe_load(whole)["jobs"]["test"]
    (kept,) = (step["with"]["path"] for step in job["steps"] if "upload" in step.get("uses", ""))
    found = {glob: [*failed.glob(glob.rstrip("/") + ("/*" if "/" in glob else ""))]
             for glob in kept.split()}  # fmt: skip
    assert [glob for glob, files in found.items() if not files] == []
    assert [*(failed / "vm-artifacts").glob("*/console.log")]
    project, output, _ = run(report, whole, files=[
        *first[0].glob("timeline-*"), *second[0].glob("timeline-*")
    ])  # fmt: skip
    assert (project / "vms.html").exists()
    assert made(output) == made((project / "summary").read_text()) == 1
    text = printed("gitlab", 1)
    for read, lines in ((gitlab, text), (jenkins, (FILES / "Jenkinsfile").read_text()),
                        (container, "")):  # fmt: skip
        project, output, said = run(read, lines)
        assert outcomes(output) == [(1, 1)], output
        assert made(output) == 0 and "-m pip install" in said
        assert [*(project / "vm-artifacts").glob("*/console.log")]


@pytest.mark.parametrize("kind", ["github", "gitlab"])
def test_the_page_has_what_is_printed_for_a_project_of_which_nothing_is_known(printed, kind):
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    shown = (FILES / f"{kind}.yml").read_text()
    assert printed(kind).replace(python, "3.12") == shown.replace(python, "3.12")


def test_each_name_that_a_file_gives_a_setting_is_one_of_ours():
    from pytest_vmports.settings.table import BY_NAME

    for file in FILES.iterdir():
        named = set(re.findall(r"VMPORTS_([A-Z_]+)", file.read_text()))
        assert named and {name.lower() for name in named} <= set(BY_NAME), file.name


PROJECT = '[project]\nname = "x"\n'
INSTALLS = {
    "": [],
    PROJECT: ["."],
    f"{PROJECT}[project.optional-dependencies]\ndev = []\ntest = []\n": ["'.[test]'"],
    f"{PROJECT}[project.optional-dependencies]\ndocs = []\n": ["."],
    f"{PROJECT}[dependency-groups]\ndev = []\n": [".", "--upgrade 'pip>=25.1'", "--group dev"],
    "[tool.x]\n[dependency-groups]\ntests = []\n": ["--upgrade 'pip>=25.1'", "--group tests"],
    "project = 7\ndependency-groups = 7\n": ["."],
}


@pytest.mark.parametrize("kind", ["github", "gitlab"])
@pytest.mark.parametrize("declared", INSTALLS)
def test_a_project_is_installed_as_it_says_itself(printed, tmp_path, kind, declared):
    read = {"github": github, "gitlab": gitlab}[kind]
    steps, _ = read(printed(kind, pyproject_toml=declared), tmp_path, 1)
    lines = [line for step in steps for line in step.splitlines() if " pip install " in line]
    ours, *rest = [line.partition(" pip install ")[2] for line in lines]
    assert "pytest-vmports[alpine,store]" in ours and rest == INSTALLS[declared]


def test_requirements_are_installed_too(printed, tmp_path):
    steps, _ = github(printed("github", requirements_txt="x"), tmp_path, 1)
    assert "python -m pip install -r requirements.txt" in "\n".join(steps)


@pytest.mark.parametrize("shards", [1, 12])
def test_as_many_machines_as_are_asked_for_run_the_tests(printed, tmp_path, shards):
    whole = yaml.safe_load(printed("github", shards))
    assert whole["jobs"]["test"]["strategy"]["matrix"]["shard"] == [*range(1, shards + 1)]
    assert f"--splits {shards} " in printed("github", shards)
    assert yaml.safe_load(printed("gitlab", shards))["vms"]["parallel"] == shards


def test_a_broken_pyproject_and_no_machines_are_told_in_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[broken")
    assert main(["ci", "github"]) == 1
    assert capsys.readouterr().err.startswith("pytest-vmports: pyproject.toml cannot be read: ")
    assert main(["ci", "github", "--shards", "0"]) == 2
    assert capsys.readouterr().err == "pytest-vmports: --shards is 1 or more\n"


@pytest.mark.parametrize("name", ["github.yml", "gitlab.yml", "Jenkinsfile", "container.sh"])
def test_the_page_names_each_file(name):
    assert f"](ci/{name})" in (ROOT / "docs" / "ci.md").read_text()
