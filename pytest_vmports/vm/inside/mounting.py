"""Folders of the host in a guest: which ways of serving one it has a driver for, and the mount."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pytest_vmports.errors import CommandTimeoutError, ShareError
from pytest_vmports.errors.shown import within
from pytest_vmports.system import clock
from pytest_vmports.vm.arguments import quoted, seconds_or_none
from pytest_vmports.vm.inside.shell import end_of
from pytest_vmports.vm.share import NINE_P, VIRTIOFS

if TYPE_CHECKING:
    from collections.abc import Collection

    from pytest_vmports.vm.inside.shell import Shell
    from pytest_vmports.vm.share import Share

# Of what a guest has to say here.
_MOST_SAID = 64 << 10
# A guest's driver of the devices, and what its mount is told. A larger message than the kernel's
# own makes fewer of them, each of which costs an exit of the emulated processor.
_DRIVERS: Final = {NINE_P: "9pnet_virtio", VIRTIOFS: "virtiofs"}
_OPTIONS: Final = {NINE_P: "trans=virtio,version=9p2000.L,msize=262144,", VIRTIOFS: ""}
# In words of its own, whatever language the guest speaks; what it says goes to us.
_PLAIN = "export LC_ALL=C; exec 2>&1\n"
# Not every guest's modprobe knows -q, and what is built in is no module.
_KNOWN = """\
has() {{ grep -qwF {kind} /proc/filesystems && [ -d /sys/bus/virtio/drivers/{driver} ]; }}
has || {{ modprobe {kind}; modprobe {driver}; }} >/dev/null
has && echo has-{kind}
"""
# A guest whose kernel does not hear of what is plugged in looks for it when it is told to. The
# driver is named a moment before it has taken the device.
_MOUNT = """\
at={place}
mkdir -p "$at" || exit
[ ! -L "$at" ] || {{ echo "$at is a link"; exit 1; }}
tries=0 said=
while :; do
    set -- /sys/bus/virtio/drivers/{driver}/virtio*
    if [ -e "$1" ] && [ $# -ge {devices} ]; then
        said=$(mount -t {kind} -o {options} {tag} "$at" 2>&1) && exit 0
        tries=$((tries + 15))
    fi
    tries=$((tries + 1))
    [ $tries -lt 300 ] || break
    [ $tries != 30 ] || echo 1 >/sys/bus/pci/rescan
    sleep 0.1 || sleep 1
done
echo "${{said:-its kernel finds no such device: it lacks hot-plugging of PCI (acpiphp)}}"
exit 1
"""
# One that was unmounted already, or whose guest has booted since, is as it should be.
_UNMOUNT = """\
at={place}
[ -d "$at" ] || exit 0
said=$(umount "$at" 2>&1) && exit 0
[ "$(stat -c %d "$at")" != "$(stat -c %d "$at/..")" ] || exit 0
echo "$said"; exit 1
"""


class Mounting:
    """The commands of one call of the test's, which have one timeout together.

    Args:
        shell: leads into the guest.
        timeout: seconds, or None.
    """

    def __init__(self, shell: Shell, timeout: float | None) -> None:
        self._shell = shell
        self._timeout = seconds_or_none(timeout)
        self._end = None if self._timeout is None else clock.now() + self._timeout

    def through(self, shell: Shell) -> None:
        """Go on by another way into the guest, whose QEMU is another one by now."""
        self._shell = shell

    @property
    def left(self) -> float | None:
        """The seconds that are left; None where there is no limit."""
        return None if self._end is None else max(self._end - clock.now(), 0.001)

    def known(self, offered: Collection[str]) -> list[str]:
        """Return which of these ways the guest has a driver for; drivers are loaded for that."""
        script = "".join(_KNOWN.format(kind=kind, driver=_DRIVERS[kind]) for kind in offered)
        _, said = self._ask(f"{script}:", "vm.share, which asks the guest for its drivers,")
        words = said.split()
        return [kind for kind in offered if f"has-{kind}" in words]

    def mount(self, share: Share, devices: int) -> None:
        """Return when the guest sees a folder that was plugged in.

        Args:
            share: the folder.
            devices: how many of its kind are plugged in by now.

        Raises:
            ShareError: it does not.
        """
        options = f"{_OPTIONS[share.by]}{'ro' if share.readonly else 'rw'}"
        script = _MOUNT.format(
            place=quoted(share.place), driver=_DRIVERS[share.by], devices=devices, kind=share.by,
            options=options, tag=share.tag,
        )  # fmt: skip
        code, said = self._ask(script, f"vm.share of {share.folder} at {share.place}")
        if code:
            what = f"the guest could not mount {share.folder} at {share.place}: {said}"
            raise ShareError(what=what, remedy="see what it says")

    def unmount(self, share: Share) -> None:
        """Return when the guest uses a folder no more.

        Raises:
            ShareError: it does.
        """
        script = _UNMOUNT.format(place=quoted(share.place))
        code, said = self._ask(script, f"the unmounting of {share.place}")
        if code:
            what = f"{share.folder} is in use in the guest, at {share.place}: {said}"
            remedy = (
                "end what uses it there; while another folder is shared, or one is given back, "
                "none may be in use"
            )
            raise ShareError(what=what, remedy=remedy)

    def _ask(self, script: str, what: str) -> tuple[int, str]:
        code, output, _ = self._shell.execute(
            _PLAIN + script, timeout=self.left, input=b"", most=_MOST_SAID
        )
        said = within(end_of(output.decode("utf-8", "surrogateescape")))
        if code is None:
            raise CommandTimeoutError(cmd=what, timeout=self._timeout, output=said, stderr="")
        return code, said
