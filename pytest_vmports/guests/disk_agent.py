"""Our agent for a distribution's guest: shell text by which cloud-init's script starts it there.

It comes along in the seed, and nothing of it is left in the image. What is there is used as it is:
a place that takes a program and runs it, systemd or else a loop that keeps it running. Where none
of that is to be had the guest boots all the same, without the agent.
"""

from __future__ import annotations

import base64
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vmports.system.architecture import Architecture

HOME = "/root"
"""Where commands begin, as by ssh."""
VARIABLES = {"USER": "root", "LOGNAME": "root", "SHELL": "/bin/sh"}
"""What a login has, beside what every command of ours has."""
ASK_LANG = """\
for file in /etc/locale.conf /etc/default/locale; do [ ! -f "$file" ] || . "$file"; done
printf %s "$LANG"
"""
"""Shell text that tells the system's ``LANG``, which a login has from there."""
EXIT_CODE = 0
"""What it says with its first frame; there is no setup of ours that could have failed."""
# The first two end with the guest's run: Debian allows no program in /run, nobody forbids /dev/shm.
# An image that is written to a file system for good comes last.
_FOLDERS = "/run/vmports", "/dev/shm/vmports", "/var/lib/vmports"  # noqa: S108 - in the guest
# The port is opened by whoever becomes the agent: a terminal's settings may go with its last user.
# A slower port would let the guest wait longer for the rest of a short frame.
_PORT_SETTINGS = "115200 raw -echo"
# Commands are the agent's children: neither its end nor systemd's ideas of a service may end them.
# It is there before most of the system, and until its end.
_TEXT = """\
port='@PORT@'
put_agent() {
  for folder in @FOLDERS@; do
    program=$folder/agent
    mkdir -p "$folder" && chmod 755 "$folder" && base64 -d >"$program.new" <<'VMPORTS' || continue
@PROGRAM@
VMPORTS
    chmod 755 "$program.new" && mv "$program.new" "$program" || continue
    # systemd runs no program that SELinux takes for data.
    [ ! -e /sys/fs/selinux/enforce ] || chcon -t bin_t "$program"
    # It ends with 1 when its channel does; what may not be run ends with 126.
    "$program" 0 </dev/null >/dev/null 2>&1
    [ $? != 1 ] || return 0
    rm -f "$program"
  done
  return 1
}
# In a shell of its own: whoever leads a session would get the port as its terminal.
if [ -c "$port" ] && (stty @SETTINGS@ <"$port") && put_agent; then
  agent="exec <$port >$port && stty @SETTINGS@ && exec $program @CODE@"
  if [ -d @RUN@/systemd/system ]; then
    cat >@RUN@/systemd/system/vmports-agent.service <<VMPORTS
[Unit]
Description=Agent of pytest-vmports
DefaultDependencies=no
IgnoreOnIsolate=yes
StartLimitIntervalSec=0
[Service]
ExecStart=/bin/sh -c '$agent'
Restart=always
RestartSec=1
KillMode=process
OOMPolicy=continue
TasksMax=infinity
IgnoreSIGPIPE=no
VMPORTS
    systemctl --no-block start vmports-agent ||
      { systemctl daemon-reload && systemctl --no-block start vmports-agent; }
  elif ! kill -0 "$(cat @RUN@/vmports-agent.pid)" 2>/dev/null; then
    while :; do sh -c "$agent"; sleep 1; done </dev/null >/dev/null 2>&1 &
    echo $! >@RUN@/vmports-agent.pid
  fi
fi
"""


def script(architecture: Architecture) -> str:
    """Return shell text that starts the agent; empty where it is not made for the architecture."""
    if architecture.agent is None:
        return ""
    return text(_program(architecture.agent), f"/dev/{architecture.control}")


def text(program: bytes, port: str, *, folders: Sequence[str] = _FOLDERS, run: str = "/run") -> str:
    """Return shell text that puts a program into a folder, and runs it.

    Args:
        program: the agent.
        port: the serial port that it serves.
        folders: in the guest; the first that can be made, and runs programs, is taken.
        run: where systemd, if it runs, is known by its folder.
    """  # fmt: skip
    parts = {
        "PORT": port, "FOLDERS": " ".join(folders), "SETTINGS": _PORT_SETTINGS, "RUN": run,
        "CODE": str(EXIT_CODE), "PROGRAM": base64.encodebytes(program).decode().strip(),
    }  # fmt: skip
    whole = _TEXT
    for name, value in parts.items():
        whole = whole.replace(f"@{name}@", value)
    return whole


@lru_cache(maxsize=4)
def _program(name: str) -> bytes:
    return (resources.files("pytest_vmports.guests") / name).read_bytes()
