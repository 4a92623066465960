"""A failing test's evidence as attachments of its Allure report, where allure-pytest writes one.

Allure reads a test's report before our sections are on it, and has no others: it would show none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vmports.vm.crash_dump import VMCORE
from pytest_vmports.vm.inside.disk import SEED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_KINDS = {".json": "JSON", ".png": "PNG", ".pcap": "PCAP"}
# As large as a guest's memory, and no text.
_LEFT_OUT = {VMCORE, SEED}


def attach(sections: Sequence[tuple[str, str]], folders: Sequence[Path]) -> None:
    """Attach to the test that runs what its report says of its VMs, and their artifacts.

    Guests' words are attached as plain text, whatever they look like, of which a browser obeys
    nothing.

    Args:
        sections: title and text of each.
        folders: of the artifacts of each VM.

    Raises:
        OSError: a file cannot be copied.
    """
    import allure

    types = allure.attachment_type
    for title, text in sections:
        allure.attach(text, title, types.TEXT)
    for number, folder in enumerate(folders, 1):
        of_which = f" of VM {number}" if len(folders) > 1 else ""
        for file in sorted(folder.iterdir()):
            if file.is_file() and file.name not in _LEFT_OUT:
                kind = getattr(types, _KINDS.get(file.suffix, "TEXT"))
                allure.attach.file(str(file), f"{file.name}{of_which}", kind)
