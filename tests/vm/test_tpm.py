"""What a TPM's process may do, and where a board has no place for one; without a VM."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from confined import what_it_can

from pytest_vmports.errors import SettingError
from pytest_vmports.pool import devices
from pytest_vmports.settings import options
from pytest_vmports.system.architecture import X86_64, architecture_named
from pytest_vmports.system.swtpm import Swtpm
from pytest_vmports.vm import tpm


def test_one_that_was_taken_over_has_its_own_folder_and_nothing_else(tmp_path):
    own = tmp_path / "own"
    kept = tpm._confinement(Swtpm("/bin/true"), own)
    assert what_it_can(kept, own, tmp_path / "beside") == {"own read", "own write", "own make"}


@pytest.mark.parametrize("board", [X86_64.on("microvm"), architecture_named("s390x")])
def test_a_board_without_a_place_for_one_says_so(board):
    settings = options.resolve(options.NoConfig(), {"tpm": True}, "the test: marker vmports")
    with pytest.raises(SettingError, match=f"marker vmports: tpm = True .* {board.board} .*no TPM"):
        devices.swtpm(settings, SimpleNamespace(architecture=board))
