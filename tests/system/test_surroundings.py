"""What was there before a test, while something is started."""

import os
import resource
import threading

import pytest

from pytest_vmports.system import surroundings

LIMITS = [resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_AS]


@pytest.fixture(autouse=True)
def put_back():
    mask = os.umask(0)
    limits = {limit: resource.getrlimit(limit) for limit in LIMITS}
    os.umask(mask)
    yield
    os.umask(mask)
    for limit, values in limits.items():
        resource.setrlimit(limit, values)


@pytest.mark.parametrize("limit", LIMITS)
def test_a_lowered_limit_is_what_it_was_and_then_lowered_again(limit):
    before, hard = resource.getrlimit(limit)
    low = 1 << 36 if limit != resource.RLIMIT_NOFILE else 200
    resource.setrlimit(limit, (low, hard))
    with surroundings.restored(), surroundings.restored():
        assert resource.getrlimit(limit) == (before, hard)
    assert resource.getrlimit(limit) == (low, hard)


def test_a_raised_limit_stays():
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    raised = before + 1 if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    with surroundings.restored():
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == raised


def test_the_umask_is_what_it_was_and_then_the_tests_again(tmp_path):
    os.umask(0o777)
    with surroundings.restored():
        (tmp_path / "file").touch()
    assert os.umask(0o777) == 0o777
    assert (tmp_path / "file").stat().st_mode & 0o600 == 0o600


def test_who_leaves_first_puts_nothing_back_for_who_is_still_inside():
    os.umask(0o777)
    entered, leave = threading.Event(), threading.Event()

    def other():
        with surroundings.restored():
            entered.set()
            leave.wait(60)

    thread = threading.Thread(target=other)
    thread.start()
    entered.wait(60)
    with surroundings.restored():
        leave.set()
        thread.join()
        inside = os.umask(surroundings._mask)
    assert inside == surroundings._mask
    assert os.umask(0o777) == 0o777


@pytest.mark.parametrize("path", [None, "", "/nowhere"])
def test_a_program_is_found_whatever_became_of_path(monkeypatch, path):
    if path is None:
        monkeypatch.delenv("PATH", raising=False)
    else:
        monkeypatch.setenv("PATH", path)
    assert os.path.isabs(surroundings.which("sh"))
    assert surroundings.which("no-such-program") is None


def test_the_variables_are_those_of_before(monkeypatch):
    monkeypatch.setenv("LATER", "x")
    assert "LATER" not in surroundings.variables()
