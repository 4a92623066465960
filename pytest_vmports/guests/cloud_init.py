"""What cloud-init is given, and how it says that it has finished.

The seed is an image with the volume label ``cidata`` (source: cloud-init's documentation of the
data source NoCloud). Beside the user's files it holds vendor data of ours: that sshd gets one host
key, and a script that authorises an ssh key, starts our agent (`disk_agent`) and, once cloud-init
has written its result, repeats that on the serial console. The script depends on no version's
wording, and the user's own settings cannot silence it.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_vmports.errors import GuestNotFoundError, GuestSaidError, HostError, SeedError
from pytest_vmports.guests import host_files
from pytest_vmports.system.mishaps import printable
from pytest_vmports.system.paths import absolute, existing_file, text_bytes
from pytest_vmports.system.said import Answer, json_said

if TYPE_CHECKING:
    from pathlib import Path

LABEL = "cidata"
_EMPTY = b"#cloud-config\n{}\n"
# What cloud-init recognises in a first line; gzip begins with 1f 8b.
_STARTS = (
    b"#cloud-config", b"#!", b"#include", b"#cloud-boothook", b"#part-handler", b"## template:",
    b"Content-Type:", b"MIME-Version:", b"\x1f\x8b",
)  # fmt: skip
# Three times, because a message of the kernel may tear a line of the console. Opened anew each
# time, because a getty hangs up on whoever had the terminal open before it.
_REPORT = """\
#cloud-boothook
#!/bin/sh
tty=/dev/ttyS0
case $(uname -m) in aarch64|arm*) tty=/dev/ttyAMA0 ;; esac
[ -c "$tty" ] || tty=/dev/console
key='@KEY@'
if [ -n "$key" ] && ! grep -qsF "$key" /root/.ssh/authorized_keys; then
  mkdir -p /root/.ssh && chmod 700 /root/.ssh
  printf '%s\\n' "$key" >>/root/.ssh/authorized_keys && chmod 600 /root/.ssh/authorized_keys
  ! command -v restorecon >/dev/null || restorecon -R /root/.ssh
fi
@AGENT@
(
  result=/run/cloud-init/result.json
  rm -f "$result"
  until [ -s "$result" ]; do sleep 0.2; done
  if ! grep -q '"errors": *\\[\\]' "$result"; then
    tail -n 30 /var/log/cloud-init-output.log >"$tty"
  fi
  for again in 1 2 3; do
    printf '\\r\\nvmports-cloud-init: %s :vmports\\r\\n' "$(tr -d '\\n' <"$result")" >"$tty"
    sleep 1
  done
) </dev/null >/dev/null 2>&1 &
"""
# One host key: an emulated processor takes a quarter of a minute to find the primes of an RSA and a
# DSA key. It is what the user's own settings override, key by key.
_VENDOR = """\
Content-Type: multipart/mixed; boundary="vmports"
MIME-Version: 1.0

--vmports
Content-Type: text/cloud-config

#cloud-config
ssh_genkeytypes: [ed25519]

--vmports
Content-Type: text/cloud-boothook

@REPORT@
--vmports--
"""
_MOST_ERRORS, _LONGEST_ERROR = 50, 2000
_REPORTED = re.compile(r"vmports-cloud-init: (\{.*?\}) :vmports", re.DOTALL)
# What systemd, or cloud-init's own last resort, writes to the console when a stage cannot run.
_FAILED = "failed stage init", "failed stage modules", "no space left on device"
_NOT_STARTED, _STAGE = "failed to start ", re.compile(r"cloud[- ](?:init|config|user|final)")
_BEGIN, _END = "vmports-cloud-init: {", "} :vmports"
_LONGEST_REPORT, _LONGEST_LINE, _SHOWN = 256 << 10, 4 << 10, 500


@dataclass(frozen=True)
class Seed:
    """The user's files, as cloud-init reads them; None where there is none."""

    user_data: bytes | None = None
    meta_data: bytes | None = None
    network_config: bytes | None = None

    @property
    def reboots(self) -> bool:
        """Whether its ``power_state`` has the guest reboot at the end of its first boot."""
        data = self.user_data or b""
        if b"power_state" not in data or not data.lstrip().startswith(b"#cloud-config"):
            return False
        found = _need("yaml").safe_load(data)
        told = found.get("power_state") if isinstance(found, dict) else None
        # With a condition it may not.
        return isinstance(told, dict) and told.get("mode") == "reboot" and "condition" not in told

    def files(self, ssh_key: str = "", agent: str = "") -> dict[str, bytes]:
        """Return the seed's files by name.

        Args:
            ssh_key: a public key to authorise for root.
            agent: shell text that starts our agent.
        """
        report = _REPORT.replace("@KEY@", ssh_key.strip()).replace("@AGENT@", agent)
        user_data = self.user_data if self.user_data is not None else _EMPTY
        vendor = _VENDOR.replace("@REPORT@", report)
        files = {"user-data": user_data, "vendor-data": vendor.encode()}
        if self.network_config is not None:
            files["network-config"] = self.network_config
        # Another identity than whatever the image was made with, or cloud-init would do nothing.
        content = b"\0".join([*files.values(), self.meta_data or b""])
        identity = hashlib.sha256(content).hexdigest()[:16]
        made = f"instance-id: vmports-{identity}\nlocal-hostname: vmports\n".encode()
        return {"meta-data": made if self.meta_data is None else self.meta_data, **files}


@dataclass(frozen=True)
class Verdict:
    """What cloud-init came to: ``errors`` is empty when it finished well."""

    errors: tuple[str, ...] = ()


class _Stages(Answer):
    """What ``result.json`` says; it has no other errors (source: cloud-init's ``main.py``)."""

    errors: list[str]


class _Result(Answer):
    """What cloud-init writes into ``result.json``."""

    v1: _Stages


def read_seed(user_data: Any, meta_data: Any, network_config: Any) -> Seed:
    """Return the seed made of what a user gave: texts, paths, or mappings.

    Raises:
        GuestNotFoundError: a file is missing.
        SeedError: a text is not YAML where it has to be, or not what cloud-init takes.
        HostError: PyYAML, with which that is found out, is missing.
    """
    seed = Seed(
        _content("user_data", user_data, head="#cloud-config\n"),
        _content("meta_data", meta_data),
        _content("network_config", network_config),
    )
    if seed.user_data is not None:
        if not seed.user_data.lstrip().startswith(_STARTS):
            first = seed.user_data.partition(b"\n")[0][:60].decode(errors="replace")
            raise SeedError(
                name="user_data", problem=f"cloud-init would ignore it: it begins with {first!r}",
                remedy="begin with #cloud-config, #!, or a MIME header",
            )  # fmt: skip
        if seed.user_data.lstrip().startswith(b"#cloud-config\n"):
            _check_yaml("user_data", seed.user_data)
    for name, content in (("meta_data", seed.meta_data), ("network_config", seed.network_config)):
        if content is not None:
            _check_yaml(name, content)
    return seed


def write_seed(files: Mapping[str, bytes], target: Path) -> None:
    """Write an ISO image with these files and the label that cloud-init looks for.

    Raises:
        HostError: ``pycdlib`` is not installed.
        OSError: the image cannot be written.
    """
    iso = _need("pycdlib").PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=LABEL)
    for number, (name, data) in enumerate(files.items()):
        iso.add_fp(
            io.BytesIO(data), len(data), f"/FILE{number}.;1", rr_name=name, joliet_path=f"/{name}"
        )
    iso.write(str(target))
    iso.close()


def verdict(console: str) -> Verdict | None:
    """Return what cloud-init reported on the console; None while it has not."""
    for match in _REPORTED.finditer(console):
        if (found := result_in(match[1])) is not None:
            return found
    return None


def result_in(text: str) -> Verdict | None:
    """Return what cloud-init came to; None where its text is torn by a message of the kernel.

    Torn ones have an end of a line in them, and come again.

    Raises:
        GuestSaidError: it is whole, and no result of cloud-init's.
    """
    whole = text.replace("\r", "").replace("\n", "")
    try:
        errors = json_said("cloud-init", whole, _Result).v1.errors
    except GuestSaidError:
        if whole != text:
            return None
        raise
    more = [f"(and {len(errors) - _MOST_ERRORS} more)"] if len(errors) > _MOST_ERRORS else []
    shown = [printable(error[:_LONGEST_ERROR]) for error in errors[:_MOST_ERRORS]]
    return Verdict((*shown, *more))


def failure(line: str) -> str | None:
    """Return a line of the console when it says that a stage of cloud-init could not run."""
    said = line.lower()
    # In two steps: as one pattern it would try each begin with each end.
    _, not_started, service = said.partition(_NOT_STARTED)
    if any(words in said for words in _FAILED) or (not_started and _STAGE.search(service)):
        return line.strip()[-_SHOWN:]
    return None


class Reports:
    """Reads a console as it is written, and remembers what it says of cloud-init.

    Each part of it is looked at once, however it comes.

    Attributes:
        verdict: what cloud-init reported first, or None.
    """

    def __init__(self) -> None:
        self.verdict: Verdict | None = None
        self._failed: str | None = None
        self._line = self._report = ""

    @property
    def failure(self) -> str | None:
        """The first line that says a stage could not run; one that is written may be cut."""
        return self._failed or failure(self._line)

    def feed(self, text: str) -> None:
        """Read on.

        Raises:
            GuestSaidError: what is reported is whole, and no result of cloud-init's.
        """
        if self._failed is None:
            self._read_lines(text)
        if self.verdict is None:
            self._read_reports(text)

    def _read_lines(self, text: str) -> None:
        text = (self._line + text).replace("\r", "\n")
        whole, _, rest = text.rpartition("\n")
        said = text.lower()
        seen = any(words in said for words in (*_FAILED, _NOT_STARTED))
        lines = [*whole.split("\n"), rest if len(rest) > _LONGEST_LINE else ""]
        for line in lines if seen else ():
            # What a line holds behind much else is a part of it too.
            for at in range(0, len(line), _LONGEST_LINE // 2):
                self._failed = self._failed or failure(line[at : at + _LONGEST_LINE])
        self._line = rest[-_LONGEST_LINE:]

    def _read_reports(self, text: str) -> None:
        text = self._report + text
        low, at = 0, max(0, len(self._report) - len(_END))
        while self.verdict is None and (end := text.find(_END, at)) >= 0:
            at = end + len(_END)
            # The last begin before it: one that was torn has no end.
            begin = text.rfind(_BEGIN, low, at)
            if begin >= 0:
                self.verdict = verdict(text[begin:at])
            low = at
        begin = text.rfind(_BEGIN, low)
        if begin < 0 or len(text) - begin > _LONGEST_REPORT:
            begin = max(low, len(text) - len(_BEGIN))
        self._report = text[begin:]


def _content(name: str, given: Any, head: str = "") -> bytes | None:
    if given is None:
        return None
    if isinstance(given, Mapping):
        return (head + json.dumps(given) + "\n").encode()  # JSON is YAML
    if isinstance(given, bytes):
        return given
    if (file := existing_file(given)) is not None:
        return host_files.read(file, name)
    if isinstance(given, str) and re.search(r"\n|^[#{]|: |^$", given):
        return text_bytes(given)
    try:
        path = absolute(given)
        what, remedy = host_files.problem(path, given) or ("cannot be read", "name another file")
    except ValueError as error:
        path, what, remedy = given, "cannot be found", str(error)
    raise GuestNotFoundError(
        what=f"{name} names the file {path}, which {what}",
        remedy=f"{remedy}; a text has more than one line, or begins with #",
    )


def _check_yaml(name: str, content: bytes) -> None:
    yaml = _need("yaml")
    try:
        found = yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise SeedError(
            name=name, problem=f"it is not YAML: {' '.join(str(error).split())}",
            remedy="correct that line",
        ) from error  # fmt: skip
    if found is not None and not isinstance(found, dict):
        raise SeedError(
            name=name, problem=f"it is a {type(found).__name__} and not a mapping",
            remedy="write keys and values",
        )  # fmt: skip


def _need(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise HostError(
            f"cloud-init's seed needs {module}, which is not installed; "
            "pip install 'pytest-vmports[cloud]'"
        ) from error
