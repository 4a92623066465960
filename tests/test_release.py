"""What publishes a release refuses one that contradicts itself, and may do what it must alone."""

import importlib.util
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
CHANGELOG = "# Changelog\n\n## 1.3.0 (unreleased)\n- new\n\n## 1.2.0 (2027-01-31)\n- older\n"


@pytest.fixture
def release(tmp_path, monkeypatch):
    """Return the script, as of a project whose version is 1.2.0."""
    spec = importlib.util.spec_from_file_location("release", ROOT / "scripts" / "release.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "ROOT", tmp_path)
    (tmp_path / "pytest_vmports").mkdir()
    (tmp_path / "pytest_vmports" / "__init__.py").write_text('__version__ = "1.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    return script


def test_its_notes_are_what_the_changelog_says_of_it(release, capsys):
    release.main("notes", "v1.2.0")
    assert capsys.readouterr().out == "- older\n"


@pytest.mark.parametrize("tag", ["v1.3.0", "1.2.0", "v1.2", "main"])
def test_a_tag_of_another_version_is_refused(release, tag):
    with pytest.raises(SystemExit, match=r"says 1\.2\.0"):
        release.main("check", tag)


def test_a_version_that_the_changelog_calls_unreleased_is_refused(release):
    file = release.ROOT / "CHANGELOG.md"
    file.write_text(CHANGELOG.replace("2027-01-31", "unreleased"))
    with pytest.raises(SystemExit, match=r"heading like '## 1\.2\.0"):
        release.main("check", "v1.2.0")


def test_the_version_stands_in_one_place():
    script = (ROOT / "scripts" / "release.py").read_text()
    assert "__version__" in script
    project = (ROOT / "pyproject.toml").read_text()
    assert 'dynamic = ["version"]' in project and not re.search(
        r"^version = ", project, re.MULTILINE
    )
    assert "version:" not in (ROOT / "CITATION.cff").read_text().replace("cff-version:", "")


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_runs_what_is_there_and_may_do_no_more_than_it_needs(workflow):
    said = yaml.safe_load(workflow.read_text())
    assert said["permissions"] == {"contents": "read"}  # what a job needs beside, it names itself
    assert "secrets." not in workflow.read_text()
    lines = "\n".join(
        step.get("run", "") for job in said["jobs"].values() for step in job["steps"]
    )  # fmt: skip
    named = re.findall(r"(?:scripts/[\w-]+(?:\.py)?|\.ci/run)", lines)
    assert [one for one in named if not (ROOT / one).exists()] == []


def test_only_what_publishes_may_do_so_and_it_publishes_what_was_tried():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())["jobs"]
    publishing = [step for step in jobs["publish"]["steps"] if "run" in step]
    assert publishing == []  # no code of the project runs where it may publish
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert jobs["publish"]["needs"] == "build" and jobs["publish"]["environment"] == "release"
    assert "scripts/check-package" in str(jobs["build"]["steps"])
    assert "attest-build-provenance" in str(jobs["build"]["steps"])


def test_the_citation_is_one():
    said = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(said)
