"""Two hosts on this machine: network namespaces with an sshd each, and one that can reach both.

As a program it is that third one: it makes the two, and runs what its standard input names. All of
it is in a pid namespace, and ends with it.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

HOSTS = {"one.test": 1, "two.test": 2}
_PORT = 2222
_SSHD = """
ListenAddress 0.0.0.0
Port {port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/key.pub
PidFile none
UsePAM no
StrictModes no
ClientAliveInterval 2
ClientAliveCountMax 3
SetEnv {environment}
"""
_SSH = """
Host {name}
  HostName 10.99.{number}.2
  Port {port}
  User {user}
  IdentityFile {folder}/key
  IdentitiesOnly yes
  BatchMode yes
  UserKnownHostsFile /dev/null
  StrictHostKeyChecking no
  LogLevel ERROR
  ServerAliveInterval 2
  ServerAliveCountMax 3
"""


def sshd():
    """Return the path of sshd, or None."""
    return shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")


class FarHosts:
    """The three, running.

    Attributes:
        ssh_config: of the ssh by which they are reached, by the names in `HOSTS`.
        pid: of what all processes on them descend from.
    """

    def __init__(self, folder, process):
        self.ssh_config = folder / "ssh_config"
        self.pid = process.pid
        self._process = process

    def begin(self, *command, folder, output, **environment):
        """Run a command on the third, in a folder."""
        asked = {
            "command": command, "folder": str(folder), "output": str(output),
            "environment": environment,
        }  # fmt: skip
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()

    def cut(self, name):
        """Let no packet pass to a host any more."""
        self._process.stdin.write(json.dumps({"cut": HOSTS[name]}) + "\n")
        self._process.stdin.flush()

    def end(self):
        """Return its exit status, when it has ended."""
        return json.loads(self._process.stdout.readline())


@contextlib.contextmanager
def far_hosts(folder, **environment):
    """Yield the hosts.

    Args:
        folder: for keys and configuration.
        environment: of whoever logs in to one; ``{host}`` stands for its name.
    """
    folder.mkdir()
    for name in ("host", "key"):
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name]
        subprocess.run(make, check=True)
    for host in HOSTS:
        variables = " ".join(
            f'"{name}={value.format(host=host)}"' for name, value in environment.items()
        )
        text = _SSHD.format(port=_PORT, folder=folder, environment=variables)
        (folder / f"{host}.sshd_config").write_text(text)
    text = "".join(
        _SSH.format(name=name, number=number, port=_PORT, user=getpass.getuser(), folder=folder)
        for name, number in HOSTS.items()
    )
    (folder / "ssh_config").write_text(text)
    apart = ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--kill-child"]
    apart += ["--mount-proc"] if os.geteuid() == 0 else ["--mount-proc", "--map-root-user"]
    own = [sys.executable, __file__]
    with subprocess.Popen(
        [*apart, *own, "third", folder, str(os.getuid())],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert json.loads(process.stdout.readline() or "null") == "ready", "see its errors"
            yield FarHosts(folder, process)
        finally:
            process.kill()


def _third(folder, uid):
    """Make the hosts, and run commands until nobody asks for more."""
    _ip("link", "set", "lo", "up")
    if uid == "0":  # where sshd would leave its rights behind
        subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)
        Path("/run/sshd").mkdir()
    for name, number in HOSTS.items():
        _begin_host(folder, uid, name, number)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if "cut" in asked:
            _ip("link", "set", f"to{asked['cut']}", "down")
        else:
            threading.Thread(target=_run, args=(asked,)).start()


def _run(asked):
    with open(asked["output"], "w") as output:
        done = subprocess.run(
            asked["command"], cwd=asked["folder"], stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, check=False, env={**os.environ, **asked["environment"]},
        )  # fmt: skip
    print(json.dumps(done.returncode), flush=True)


def _begin_host(folder, uid, name, number):
    own = [sys.executable, __file__, "host", folder, uid, name, str(number)]
    host = subprocess.Popen(
        ["unshare", "--net", "--uts", *own], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert host.stdout.readline() == "apart\n"
    here, there = f"to{number}", "eth0"
    _ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", str(host.pid))
    _ip("addr", "add", f"10.99.{number}.1/24", "dev", here)
    _ip("link", "set", here, "up")
    host.stdin.write("wired\n")
    host.stdin.flush()
    assert host.stdout.readline() == "listens\n", (Path(folder) / f"{name}.said").read_text()


def _host(folder, uid, name, number):
    """Be one of the two."""
    socket.sethostname(name)
    print("apart", flush=True)
    sys.stdin.readline()
    _ip("link", "set", "lo", "up")
    _ip("addr", "add", f"10.99.{number}.2/24", "dev", "eth0")
    _ip("link", "set", "eth0", "up")
    # One that is root there only has no other user's number to become.
    as_user = [] if uid == "0" else ["unshare", "--user", f"--map-user={uid}"]
    server = subprocess.Popen(
        [*as_user, sshd(), "-D", "-e", "-f", f"{folder}/{name}.sshd_config"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with open(f"{folder}/{name}.said", "w") as said:
        for line in server.stderr:
            said.write(line)
            said.flush()
            if "listening" in line:
                print("listens", flush=True)


def _ip(*words):
    subprocess.run(["ip", *words], check=True)


if __name__ == "__main__":
    {"third": _third, "host": _host}[sys.argv[1]](*sys.argv[2:])
