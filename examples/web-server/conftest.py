"""The server, built once, and a guest that runs it."""

import os
import platform
import subprocess
from pathlib import Path

import pytest

from pytest_vmports import Guest

HERE = Path(__file__).parent
GOARCH = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


@pytest.fixture(scope="session")
def server_binary(tmp_path_factory):
    """Build the server for the guest, whose processor is of the host's kind."""
    binary = tmp_path_factory.mktemp("build") / "visits"
    target = {"CGO_ENABLED": "0", "GOOS": "linux", "GOARCH": GOARCH[platform.machine()]}
    # -trimpath: each of xdist's workers builds the same file, and so they share one saved guest.
    subprocess.run(
        ["go", "build", "-trimpath", "-o", binary, "."],
        cwd=HERE / "server",
        env=os.environ | target,
        check=True,
    )
    return binary


@pytest.fixture(scope="session")
def vmports_guest(server_binary):
    """Return the bundled guest, with the server running."""
    return Guest.alpine(
        files={
            str(server_binary): "/usr/bin/visits",
            str(HERE / "server.json"): "/etc/server.json",
        },
        setup="mkdir -p /var/lib; visits /etc/server.json &",
    )
