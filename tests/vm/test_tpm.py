"""What a TPM's process may do, and where a board has no place for one; without a VM."""

from __future__ import annotations

import stat
from dataclasses import replace
from types import SimpleNamespace

import pytest
from confined import PYTHON, tries

from pytest_vmports.errors import SettingError
from pytest_vmports.pool import devices
from pytest_vmports.settings import options
from pytest_vmports.system.architecture import X86_64, architecture_named
from pytest_vmports.system.swtpm import Swtpm
from pytest_vmports.vm import tpm


def test_one_that_was_taken_over_has_its_own_folder_and_nothing_else(tmp_path):
    own, beside = tmp_path / "own", tmp_path / "beside"
    for place in (own, beside):
        place.mkdir()
        (place / "file").write_text("")
        (place / "file").chmod(0o640)
    code = """
        for name, place in (("own", own), ("beside", beside)):
            attempt(f"{name} read", lambda: open(f"{place}/file").close())
            attempt(f"{name} write", lambda: open(f"{place}/file", "a").close())
            attempt(f"{name} make", lambda: open(f"{place}/new", "w").close())
            attempt(f"{name} link", lambda: os.symlink("/etc/passwd", f"{place}/link"))
            attempt(f"{name} own", lambda: os.chown(f"{place}/file", 7, 7))
            attempt(f"{name} rights", lambda: os.open(f"{place}/suid", os.O_CREAT, 0o4755))
        os.chmod(f"{own}/file", 0o666)
        attempt("passwd", lambda: open("/etc/passwd").close())
        for name, do in (("tcp", tcp), ("udp", udp), ("unix", lambda: unix(f"{beside}/s"))):
            attempt(name, do)
    """
    kept = tpm._confinement(Swtpm("/bin/true"), own)
    walls = replace(kept.walls, read=tuple(kept.walls.read) + PYTHON)
    output = tmp_path / "said"
    output.mkdir()
    said = tries(replace(kept, walls=walls), output, code, own=str(own), beside=str(beside))
    able = {"own read", "own write", "own make"}
    assert {name for name, what in said.items() if what == "done"} == able, said
    assert stat.S_IMODE((own / "file").stat().st_mode) == 0o640
    assert {one.name for one in own.iterdir()} == {"file", "new"}
    assert [one.name for one in beside.iterdir()] == ["file"]


@pytest.mark.parametrize("board", [X86_64.on("microvm"), architecture_named("s390x")])
def test_a_board_without_a_place_for_one_says_so(board):
    settings = options.resolve(options.NoConfig(), {"tpm": True}, "the test: marker vmports")
    with pytest.raises(SettingError, match=f"marker vmports: tpm = True .* {board.board} .*no TPM"):
        devices.swtpm(settings, SimpleNamespace(architecture=board))
