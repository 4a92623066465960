"""What a run with other versions of QEMU ends as; the releases are fakes that end as they are told.

How the real ones are made and entered is in test_debian_chroot.py.
"""

from types import SimpleNamespace

import debian_chroot
import pytest
import versions
from cached import CannotMakeError


@pytest.fixture
def run(monkeypatch):
    """Return a function that runs with releases whose pytest ends so, and tells what they ran."""

    def run(*words, missing="", on_ci=True, **ends):
        ran = []

        def chroot(suite):
            if ends[suite] is None:
                raise CannotMakeError("the mirror does not answer")

            def enter(*command):
                if command[0] != "sh":
                    ran.append((suite, *command))
                return SimpleNamespace(returncode=ends[suite])

            return SimpleNamespace(run=enter)

        monkeypatch.setattr(debian_chroot, "chroot", chroot)
        monkeypatch.setattr(debian_chroot, "missing", lambda: missing)
        monkeypatch.setattr(versions, "ON_CI", on_ci)
        monkeypatch.setattr("sys.argv", ["versions.py", *words])
        return versions.main(), ran

    return run


@pytest.mark.parametrize("first", [1, 2, None])
@pytest.mark.parametrize("other_way_round", [False, True])
def test_one_that_fails_or_cannot_be_made_fails_all_and_the_others_run(
    run, capsys, first, other_way_round
):
    bad, good = versions.SUITES[::-1] if other_way_round else versions.SUITES
    code, ran = run(**{bad: first, good: 0})
    assert code == 1
    assert good in {suite for suite, *_ in ran}
    closing = capsys.readouterr().out.splitlines()[-2:]
    assert f"{good}: passed" in closing
    assert any(line.startswith(f"{bad}: ") and "passed" not in line for line in closing)


def test_where_all_pass_it_passes_with_the_whole_list_in_each(run):
    code, ran = run(trixie=0, sid=0)
    assert code == 0
    assert [suite for suite, *_ in ran] == ["trixie", "trixie", "sid", "sid"]
    for (_, *command), wanted in zip(ran, [versions.CHOSEN, versions.PASST] * 2, strict=True):
        assert set(wanted) <= set(command)


def test_files_that_are_named_run_in_place_of_the_list(run):
    _, [(suite, *command)] = run(
        "--suite", "sid", "-n0", "--", "-x", "tests/vm/test_vm_udp.py", sid=0
    )
    assert suite == "sid"
    assert [word for word in command if word.startswith("tests/")] == ["tests/vm/test_vm_udp.py"]
    assert "-x" in command and command[command.index("-n") + 1] == "0"


@pytest.mark.parametrize(("words", "code"), [((), 1), (("--", "-k", "nothing"), 0)])
def test_no_test_at_all_is_a_failure_unless_they_were_chosen(run, words, code):
    assert run(*words, trixie=5, sid=5)[0] == code


@pytest.mark.parametrize(("on_ci", "code"), [(True, 1), (False, 0)])
def test_what_is_missing_is_said_in_one_line_and_is_a_failure_on_ci(run, capsys, on_ci, code):
    assert run(missing="missing: mmdebstrap", on_ci=on_ci) == (code, [])
    (line,) = capsys.readouterr().err.splitlines()
    assert "missing: mmdebstrap" in line


def test_every_file_of_the_list_is_there():
    assert [name for name in versions.TESTS if not (debian_chroot.CHECKOUT / name).exists()] == []
