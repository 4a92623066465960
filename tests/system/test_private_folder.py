"""A folder that is its user's alone."""

import os
import shlex
import stat

import pytest

from pytest_vmports.errors import StateDirError
from pytest_vmports.system.private_folder import WRITE_ACCESS, make_private

ELSEWHERE = "name another place"


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def refused(folder, **keywords):
    with pytest.raises(StateDirError) as caught:
        make_private(folder, remedy=ELSEWHERE, **keywords)
    assert caught.value.path == str(folder)
    return caught.value.reason, caught.value.remedy


def test_what_is_missing_is_made_private_whatever_the_umask_is(tmp_path):
    before = os.umask(0)
    try:
        make_private(tmp_path / "a" / "b" / "c", remedy=ELSEWHERE, parents=True)
    finally:
        os.umask(before)
    made = [tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "c"]
    assert [mode(path) for path in made] == [0o700] * 3


def test_what_is_above_is_not_made_unasked(tmp_path):
    reason, remedy = refused(tmp_path / "a" / "b")
    assert (reason, remedy) == ("No such file or directory", ELSEWHERE)
    assert not (tmp_path / "a").exists()


def test_a_link_is_followed_only_where_that_is_allowed(tmp_path):
    (tmp_path / "there").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("there")
    assert refused(tmp_path / "link")[1] == "remove the link"
    make_private(tmp_path / "link", remedy=ELSEWHERE, follow=True)


def test_a_file_in_its_place_is_refused(tmp_path):
    (tmp_path / "file").touch()
    assert refused(tmp_path / "file") == ("it is not a directory", "remove the file")


def test_others_may_read_it_only_where_that_is_allowed(tmp_path):
    tmp_path.chmod(0o755)
    make_private(tmp_path, remedy=ELSEWHERE, forbidden=WRITE_ACCESS)
    reason, remedy = refused(tmp_path)
    assert reason == "others may use it (mode 0755)"
    assert remedy == f"run: chmod 700 {shlex.quote(str(tmp_path))}; or {ELSEWHERE}"
    tmp_path.chmod(0o775)
    assert refused(tmp_path, forbidden=WRITE_ACCESS)[0] == "others may write to it (mode 0775)"
    tmp_path.chmod(0o700)


def test_another_users_is_refused(tmp_path, monkeypatch):
    us = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: us + 1)
    assert refused(tmp_path) == (f"it belongs to user {us} and we are {us + 1}", ELSEWHERE)
