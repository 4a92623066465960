"""What a console ends with when a boot has failed for good, and what only looks like it."""

# ruff: noqa: ISC004 - a console's text has many lines, and stands beside what is said of it
from __future__ import annotations

import pickle

import pytest

from pytest_vmports import Guest
from pytest_vmports.errors import BootTimeoutError, GuestStuckError, MachineDiedError
from pytest_vmports.errors.shown import quoted
from pytest_vmports.guests.image import Disk
from pytest_vmports.system import clock
from pytest_vmports.system.architecture import X86_64
from pytest_vmports.vm import last_words as module
from pytest_vmports.vm.console import Console
from pytest_vmports.vm.inside.kind import kind_of
from pytest_vmports.vm.inside.waiting import Waiting
from pytest_vmports.vm.last_words import AFTER_LOADER, TABLE, last_words

SEABIOS = "\x1bc\x1b[?7l\x1b[2J\x1b[0mSeaBIOS (version 1.16.2-debian-1.16.2-1)\r\n"
GRUB = "\x1b[2J\x1b[01;01HWelcome to GRUB!\r\n\r\n"
MENU = (
    "\x1b[0m\x1b[37m\x1b[40m\x1b[2J\x1b[02;29HGNU GRUB  version 2.06-13\r\n\x1b[04;02H+----+"
    "\x1b[19;02H      Use the ^ and v keys to select which entry is highlighted.          \r\n"
    "      Press enter to boot the selected OS, `e' to edit the commands       \r\n"
    "      before booting or `c' for a command-line.                           "
    "\x1b[05;80H \x1b[7m\x1b[05;03H*Debian GNU/Linux\x1b[0m\x1b[06;03H Advanced options\x1b[05;78H"
)
COUNTDOWN = (
    "\x1b[22;02H   The highlighted entry will be executed automatically in 5s.                 "
    "\x1b[05;78H\x1b[22;02H   The highlighted entry will be executed automatically in 4s."
)
LINUX = (
    "[    0.000000] Linux version 6.1.0-18-amd64 (builder@example.org)\r\n"
    "[    1.732512] virtio_blk virtio1: [vda] 4194304 512-byte logical blocks\r\n"
)
BUSYBOX = (
    "\r\n\r\nBusyBox v1.35.0 (Debian 1:1.35.0-4+b3) built-in shell (ash)\r\n"
    "Enter 'help' for a list of built-in commands.\r\n\r\n"
)
EMERGENCY = (
    'You are in emergency mode. After logging in, type "journalctl -xb" to view\r\n'
    'system logs, "systemctl reboot" to reboot, "systemctl default" or "exit"\r\n'
    "to boot into default mode.\r\n"
)
SULOGIN = (
    "\r\nCannot open access to console, the root account is locked.\r\n"
    "See sulogin(8) man page for more details.\r\n\r\nPress Enter to continue.\r\n"
)
DRACUT = (
    'Warning: /dev/disk/by-uuid/1 does not exist\r\n\r\nGenerating "/run/initramfs/rdsosreport.txt"'
    "\r\n\r\n\r\nEntering emergency mode. Exit the shell to continue.\r\n"
    'Type "journalctl" to view system logs.\r\n'
    'You might want to save "/run/initramfs/rdsosreport.txt" to a USB stick or /boot\r\n'
    "after mounting them and attach it to a bug report.\r\n\r\n\r\n"
)
BDS = (
    'BdsDxe: failed to load Boot0001 "UEFI Misc Device" from PciRoot(0x0)/Pci(0x3,0x0): '
    "Not Found\r\n"
)
# A text of each, with a word of what is said of it.
STUCK = {
    "SeaBIOS": (
        f"{SEABIOS}Booting from Hard Disk...\r\nBoot failed: not a bootable disk\r\n\nBooting from "
        "Floppy...\r\nBoot failed: could not read the boot disk\r\n\nNo bootable device.\r\n",
        "BIOS",
    ),
    "SeaBIOS stops at one": (f"{SEABIOS}Boot failed: not a bootable disk\r\n", "BIOS"),
    "SeaBIOS tries again": (f"{SEABIOS}No bootable device.  Retrying in 60 seconds.\r\n", "BIOS"),
    "BdsDxe": (
        f"{BDS}BdsDxe: No bootable option or device was found.\r\n"
        "BdsDxe: Press any key to enter the Boot Manager Menu.\r\n",
        "UEFI",
    ),
    "BdsDxe alone": (f"{BDS}BdsDxe: No bootable option or device was found.\r\n", "UEFI"),
    "UEFI shell": (
        "\x1b[2J\x1b[01;01HUEFI Interactive Shell v2.2\r\nEDK II\r\nMapping table\r\n"
        "Press \x1b[1mESC\x1b[0m in 1 seconds to skip \x1b[33mstartup.nsh\x1b[0m or any other key "
        "to continue.\r\n\x1b[08;01H\x1b[1m\x1b[33m\x1b[40mShell> \x1b[0m\x1b[37m\x1b[40m",
        "UEFI",
    ),
    "UEFI setup": (
        "\x1b[2J Standard PC (i440FX + PIIX, 1996)\r\n Continue\x1b[24;03H^v=Move Highlight"
        "\x1b[24;30H<Enter>=Select Entry\x1b[24;60H",
        "UEFI",
    ),
    "boot sector": (f"{SEABIOS}Booting from Hard Disk...\r\nMissing operating system.", "sector"),
    "FAT's boot sector": (
        f"{SEABIOS}Booting from Hard Disk...\r\nThis is not a bootable disk.  Please insert a "
        "bootable floppy and\r\npress any key to try again ... ",
        "sector",
    ),
    "Windows": ("BOOTMGR is missing\r\nPress Ctrl+Alt+Del to restart\r\n", "sector"),
    "syslinux": ("SYSLINUX 6.04 EDD\r\nNo DEFAULT configuration directive found!\r\nboot: ", "SYS"),
    "GRUB rescue": (
        "GRUB loading.\r\nWelcome to GRUB!\r\n\r\nerror: no such device: 1b2c.\r\n"
        "Entering rescue mode...\r\ngrub rescue> ",
        "GRUB",
    ),
    "GRUB prompt": (
        f"{GRUB}   Minimal BASH-like line editing is supported.\r\n\r\ngrub> \x1b[01;07H",
        "GRUB",
    ),
    "GRUB menu": (GRUB + MENU, "no timeout"),
    "GRUB key": (
        "Attempting to decrypt master key...\r\nEnter passphrase for hd0,gpt2 (1b2c): ",
        "LUKS",
    ),
    "initramfs": (
        f"{LINUX}ALERT!  /dev/vdb1 does not exist.  Dropping to a shell!{BUSYBOX}(initramfs) ",
        "initrd",
    ),
    "initramfs, and the kernel goes on": (
        f"{LINUX}{BUSYBOX}(initramfs) [   31.553251] random: crng init done\r\n",
        "initrd",
    ),
    "dracut": (f"{LINUX}{DRACUT}dracut:/# ", "dracut"),
    "dracut, newer": (f"{LINUX}{DRACUT}:/root# ", "dracut"),
    "dracut with systemd": (
        f"{LINUX}{DRACUT}Press Enter for maintenance\r\n(or press Control-D to continue): ",
        "emergency",
    ),
    "Alpine": (
        f"{LINUX}Mounting root: failed.\r\ninitramfs emergency recovery shell launched. Type "
        "'exit' to continue boot\r\nsh: can't access tty; job control turned off\r\n~ # ",
        "Alpine",
    ),
    "Arch": (
        f"{LINUX}ERROR: device '/dev/vdb' not found. Skipping fsck.\r\nYou are now being dropped "
        "into an emergency shell.\r\nsh: can't access tty; job control turned off\r\n[rootfs ~]# ",
        "mkinitcpio",
    ),
    "systemd": (
        f"{LINUX}{EMERGENCY}Give root password for maintenance\r\n"
        "(or press Control-D to continue): ",
        "emergency",
    ),
    "systemd, locked": (LINUX + EMERGENCY + SULOGIN, "emergency"),
    "systemd, no more": (LINUX + EMERGENCY, "emergency"),
    "systemd's key": (
        f"{LINUX}\r\n\N{CLOSED LOCK WITH KEY} Please enter passphrase for disk vda3_crypt: "
        "(press TAB for no echo) ",
        "LUKS",
    ),
    "systemd's key, older": (f"{LINUX}Please enter passphrase for disk QEMU on /: ", "LUKS"),
    "Debian's key": (f"{LINUX}Please unlock disk vda5_crypt: ", "LUKS"),
    "cryptsetup's key": (f"{LINUX}Enter passphrase for /dev/vda3: ", "LUKS"),
    "FreeBSD": ("Trying to mount root from ufs:/dev/ada0p2 []...\r\nmountroot> ", "FreeBSD"),
}
LOOKALIKES = {
    "nothing": "",
    "SeaBIOS tries the next": f"{SEABIOS}Booting from Hard Disk...\r\n"
    "Boot failed: not a bootable disk\r\n\nBooting from Floppy...\r\n",
    "one entry of UEFI": BDS,
    "UEFI starts another": f"{BDS}BdsDxe: loading Boot0002\r\nBdsDxe: starting Boot0002\r\n",
    "UEFI's shell counts down": "UEFI Interactive Shell v2.2\r\nPress ESC in 5 seconds to skip "
    "startup.nsh or any other key to continue.",
    "a shell of that name": "Shell> ",
    "a menu that counts down": GRUB + MENU + COUNTDOWN,
    "a menu that was left": f"{GRUB}{MENU}\x1b[2J  Booting `Debian GNU/Linux'\r\n\r\n",
    "a menu that was left for Linux": f"{GRUB}{MENU}Loading Linux 6.1.0-18-amd64 ...\r\n",
    "GRUB alone": GRUB,
    "a prompt that was answered": f"{GRUB}grub> boot\r\n",
    "a prompt behind Linux": f"{LINUX}grub> ",
    "a prompt behind systemd": "Welcome to \x1b[1mDebian GNU/Linux 12\x1b[0m!\r\n\r\ngrub> ",
    "a quoted prompt": f"{LINUX}app[17]: type grub rescue> ",
    "a log of an initrd": f"{LINUX}app: it said (initramfs)",
    "an initrd that went on": f"{LINUX}{BUSYBOX}(initramfs) exit\r\nBegin: Running /scripts\r\n",
    "firmware's words in a log": f"{LINUX}host2: No bootable device.\r\n",
    "firmware's words as a line": f"{LINUX}No bootable device.\r\n",
    "emergency mode in a log": f"{LINUX}app[17]: You are in emergency mode\r\n",
    "emergency mode as a line": f"{LINUX}You are in emergency mode\r\n",
    "emergency mode that was left": f"{LINUX}{EMERGENCY}{SULOGIN}[  OK  ] Reached target Basic "
    "System.\r\n         Starting OpenBSD Secure Shell server...\r\n",
    "a disk that was unlocked": f"{LINUX}Please unlock disk vda5_crypt: \r\n"
    "cryptsetup: vda5_crypt: set up successfully\r\n",
    "the words after the boot": f"{LINUX}Debian GNU/Linux 12 vm ttyS0\r\n\r\nvm login: root\r\n"
    "# cat notes\r\nPlease unlock disk vda5_crypt: ",
    "a login prompt": f"{LINUX}Debian GNU/Linux 12 vm ttyS0\r\n\r\nvm login: ",
    "a root shell": f"{LINUX}sh-5.2# ",
    "busybox asks for a key": f"{LINUX}Please press Enter to activate this console. ",
    "a service that starts": f"{LINUX}[  OK  ] Started Emergency Shell.\r\n",
}


@pytest.mark.parametrize(("console", "word"), STUCK.values(), ids=STUCK)
def test_last_words_are_told_with_what_they_mean_and_what_to_do(console, word):
    row = last_words(console)
    assert row is not None
    assert word in row.means
    assert row.remedy


@pytest.mark.parametrize("console", LOOKALIKES.values(), ids=LOOKALIKES)
def test_what_only_looks_like_last_words_is_none(console):
    assert last_words(console) is None


def test_every_row_has_its_text():
    assert {last_words(console) for console, _ in STUCK.values()} == set(TABLE)


@pytest.mark.parametrize(("console", "_word"), STUCK.values(), ids=STUCK)
def test_more_behind_the_words_makes_them_none(console, _word):
    assert last_words(f"{console}\r\nsomething else\r\nand on\r\n" + "and on\r\n" * 100) is None


@pytest.mark.parametrize("noise", ["x" * 100_000, "[" * 100_000, "Press " * 20_000, "\n" * 100_000])
def test_noise_is_no_last_word_and_hides_none(noise):
    assert last_words(noise) is None
    assert last_words(f"{noise}\ngrub> ") is not None


# --- the watch ------------------------------------------------------------------------------------


@pytest.fixture
def pass_time(monkeypatch):
    """Return a function that lets seconds pass on the clock of deadlines."""
    moment = [clock.now()]
    monkeypatch.setattr(clock, "now", lambda: moment[0])

    def passed(seconds):
        moment[0] += seconds

    return passed


@pytest.fixture
def waiting(tmp_path, pass_time):
    """Return a function that waits for a guest whose console says this."""

    def made(text, ends=TABLE, alive=lambda: None):
        console = Console(tmp_path / "console.log")
        console.path.write_text(text)
        found = Waiting(console, alive, clock.now() + 1000, 1000.0, ends=ends)
        found.check()
        return found

    return made


@pytest.mark.parametrize(("console", "_word"), STUCK.values(), ids=STUCK)
def test_words_that_stay_the_last_end_the_wait(waiting, pass_time, console, _word):
    wait = waiting(console)
    pass_time(last_words(console).seconds - 0.1)
    wait.check()
    pass_time(0.2)
    with pytest.raises(GuestStuckError) as caught:
        wait.check()
    error = pickle.loads(pickle.dumps(caught.value))
    assert str(error).startswith(f"the guest will not come up: {last_words(console).means}\n")
    assert error.words == wait.console.last_line()
    assert error.remedy in str(error)
    assert quoted(wait.console.tail()) in str(error)


def test_words_that_something_follows_end_no_wait(waiting, pass_time):
    wait = waiting(f"{GRUB}grub> ")
    for _ in range(10):
        pass_time(4)
        wait.check()
        with wait.console.path.open("a") as file:
            file.write("\r\ngrub> ")
        wait.check()
    pass_time(5)
    with pytest.raises(GuestStuckError):
        wait.check()


@pytest.mark.parametrize("console", LOOKALIKES.values(), ids=LOOKALIKES)
def test_a_silent_guest_without_last_words_is_waited_for(waiting, pass_time, console):
    wait = waiting(console)
    for _ in range(20):
        pass_time(50)
        wait.check()


def test_a_passphrase_that_a_server_brings_may_take_a_while(waiting, pass_time):
    wait = waiting(f"{LINUX}Please unlock disk vda5_crypt: ")
    pass_time(25)
    wait.check()
    with wait.console.path.open("a") as file:
        file.write("\r\ncryptsetup: vda5_crypt: set up successfully\r\n")
    for _ in range(2):
        pass_time(100)
        wait.check()


def test_a_vm_that_has_died_is_told_before_its_last_words(waiting, pass_time):
    def dead():
        raise MachineDiedError(program="QEMU", returncode=1, stderr="", console="")

    wait = waiting("grub> ")
    pass_time(100)
    wait = Waiting(wait.console, dead, wait.deadline, 1.0, ends=TABLE)
    with pytest.raises(MachineDiedError):
        wait.check()


def test_what_a_template_wrote_is_not_this_guests(waiting, pass_time):
    wait = waiting("")
    wait.console.begin_with("grub> ")
    pass_time(100)
    wait.check()
    pass_time(100)
    wait.check()


def test_each_kind_of_guest_is_watched_for_what_it_can_end_with(tmp_path):
    disk = Disk(tmp_path / "disk")
    kernel = tmp_path / "vmlinuz"
    assert kind_of(Guest("g", prepared=False, root_disk=disk), X86_64).ends == TABLE
    assert kind_of(Guest("g", kernel, prepared=False, root_disk=disk), X86_64).ends == AFTER_LOADER
    assert kind_of(Guest("g", kernel, prepared=False), X86_64).ends == AFTER_LOADER
    # Its setup may write anything, and take its time after it.
    assert kind_of(Guest("g", kernel), X86_64).ends == ()
    assert not any(row.before_linux for row in AFTER_LOADER)


@pytest.mark.parametrize(
    ("console", "said"),
    [
        ("", "it wrote nothing to its console, and may write to another console"),
        ("\x1b[2J\r\n", "it wrote nothing to its console"),
        (f"{SEABIOS}Booting from Hard Disk...\r\n", "it wrote nothing since its boot loader did"),
        ("Loading Linux 6.1.0 ...\r\nLoading initial ramdisk ...\r\n", "it wrote nothing since"),
        ('BdsDxe: starting Boot0003 "debian" from HD(1)\r\n', "it wrote nothing since"),
        ("grub> ", "it stands still: its boot loader (GRUB) found no configuration"),
        (
            f"{LINUX}Could not configure eth0 for IPv4: unable to open a broadcasting socket: "
            "listen packet 5a:94: socket: address family not supported by protocol\r\n~/> ",
            "its console tells of a kernel without packet sockets",
        ),
        (
            "udhcpc: socket(AF_PACKET,2,8): Address family not supported by protocol\r\n",
            "its console tells of a kernel without packet sockets",
        ),
        (
            "Open a socket for LPF: Address family not supported by protocol\r\n",
            "its console tells of a kernel without packet sockets",
        ),
    ],
)  # fmt: skip
def test_a_guest_waited_for_in_vain_is_told_by_how_its_console_ends(waiting, console, said):
    error = waiting(console).timed_out("port 80 does not answer")
    assert type(error) is BootTimeoutError
    assert str(error.waited_for).startswith(f"port 80 does not answer; {said}")


def test_a_guest_without_packet_sockets_is_told_what_to_do(waiting):
    said = "udhcpc: socket(AF_PACKET,2,8): Address family not supported by protocol\n"
    told = waiting(said).timed_out("port 80").waited_for
    assert "load their module, af_packet" in told and "192.168.127.2/24" in told


@pytest.mark.parametrize(
    "console",
    [
        f"{LINUX}vm login: ",
        # Of IPv6, and of two lines.
        "nginx: socket() [::]:80 failed (97: Address family not supported by protocol)\r\n",
        "udhcpc: started\r\nsocket: Address family not supported by protocol\r\n",
    ],
)
def test_a_guest_that_wrote_as_usual_is_told_by_what_was_waited_for_alone(waiting, console):
    assert waiting(console).timed_out("port 80").waited_for == "port 80"


def test_a_console_is_read_once_for_what_stays(waiting, pass_time, monkeypatch):
    wait, looks = waiting("nothing of note\r\n"), []
    monkeypatch.setattr(module, "last_words", lambda *_: looks.append(1))
    for _ in range(50):
        pass_time(1)
        wait.check()
    assert len(looks) == 1
