"""Container images from a registry, or from what else `skopeo` reaches: looked up, and copied.

Source: skopeo-inspect(1), skopeo-copy(1).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_vmports.errors import FetchError, HostError
from pytest_vmports.system import surroundings
from pytest_vmports.system.probing import ask

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_vmports.system.architecture import Architecture

_LOOK_SECONDS, _COPY_SECONDS = 60.0, 2 * 3600.0
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PINNED = re.compile(r"@(sha256:[0-9a-f]{64})\Z")
# A registry of this host's own is asked without TLS, as docker does.
_LOOPBACK = re.compile(r"docker://(?:localhost|127\.[0-9.]+|\[::1\])(?::\d+)?/")
_SAYS = re.compile(r'msg="((?:[^"\\]|\\.)*)"')


def look_up(reference: str, architecture: Architecture) -> str:
    """Return the digest of what a reference stands for now, ``sha256:…``.

    Args:
        reference: with its transport, as ``docker://nginx:1.27``.
        architecture: of the VM.

    Raises:
        FetchError: nobody answers, or there is none.
        HostError: skopeo is not installed.
    """
    if pinned := _PINNED.search(reference):
        return pinned[1]
    insecure = ["--tls-verify=false"] if _LOOPBACK.match(reference) else []
    words = ["inspect", *insecure, "--no-tags", "--format", "{{.Digest}}", reference]
    said = _skopeo(words, reference, architecture, _LOOK_SECONDS).strip()
    if not _DIGEST.fullmatch(said):
        raise _failed(reference, f"skopeo tells no digest of it: {said[:200]!r}")
    return said


def copy(reference: str, layout: Path, architecture: Architecture) -> None:
    """Copy an image to a new OCI layout; skopeo checks it against its digests.

    Raises:
        FetchError: it cannot be had.
        HostError: skopeo is not installed.
    """
    insecure = ["--src-tls-verify=false"] if _LOOPBACK.match(reference) else []
    words = ["copy", "--quiet", *insecure, reference, f"oci:{layout}:image"]
    _skopeo(words, reference, architecture, _COPY_SECONDS)


def _skopeo(
    words: Sequence[str], reference: str, architecture: Architecture, timeout: float
) -> str:
    program = surroundings.which("skopeo")
    if program is None:
        raise HostError(
            f"{reference} is fetched by skopeo, which is not installed: install it (apt install "
            "skopeo, dnf install skopeo, brew install skopeo), or save the image and name the file"
        )
    of = ["--override-os", "linux", "--override-arch", architecture.distributions]
    answer = ask([program, *of, *words], timeout=timeout)
    if answer.code:
        raise _failed(reference, _said(answer.errors) or f"skopeo ended with {answer.code}")
    return answer.output


def _said(errors: str) -> str:
    """Return the last of what skopeo says went wrong."""
    lines = [line for line in errors.splitlines() if line.strip()]
    found = _SAYS.findall(lines[-1]) if lines else []
    said: str = found[-1].replace('\\"', '"') if found else "".join(lines[-1:])
    return said[:500]


def _failed(reference: str, problem: str) -> FetchError:
    return FetchError(
        source=reference, problem=problem,
        remedy="look whether its name is right and whether you may read it (skopeo login)",
    )  # fmt: skip
