"""System calls by their names: each architecture's numbers, and which ones no child of ours needs.

Sources: ``asm/unistd_64.h`` of x86-64, ``asm-generic/unistd.h``, which arm64 goes by, ``audit.h``.
"""

from __future__ import annotations

import platform
from typing import Final

# x86-64's number, and arm64's, which has some calls by other names alone.
NUMBERS: Final[dict[str, tuple[int, int | None]]] = {
    # The gate's, and what leads round it.
    "bind": (49, 200), "listen": (50, 201), "connect": (42, 203), "socket": (41, 198),
    "socketpair": (53, 199), "sendto": (44, 206), "sendmsg": (46, 211), "sendmmsg": (307, 269),
    "io_uring_setup": (425, 425), "prctl": (157, 167), "prlimit64": (302, 261),
    "open": (2, None), "openat": (257, 56), "openat2": (437, 437), "creat": (85, None),
    "mknod": (133, None), "mknodat": (259, 33),
    "clone": (56, 220), "fork": (57, None), "vfork": (58, None), "clone3": (435, 435),
    # Into another process, or at its cost.
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438), "setpriority": (141, 140), "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119), "sched_setattr": (314, 274), "sched_setaffinity": (203, 122),
    "ioprio_set": (251, 30),
    # What processes of one user share and no path leads to: memory, queues, keys.
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "semget": (64, 190),
    "semop": (65, 193), "semctl": (66, 191), "semtimedop": (220, 192), "msgget": (68, 186),
    "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187), "mq_open": (240, 180),
    "mq_unlink": (241, 181), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219), "inotify_add_watch": (254, 27),
    # Another user or another namespace, which also takes back that a process dies with its parent.
    "unshare": (272, 97), "setns": (308, 268), "setuid": (105, 146), "setgid": (106, 144),
    "setreuid": (113, 145), "setregid": (114, 143), "setresuid": (117, 147),
    "setresgid": (119, 149), "setfsuid": (122, 151), "setfsgid": (123, 152),
    "setgroups": (116, 159), "chroot": (161, 51),
    # The machine's, where we are root.
    "bpf": (321, 280), "perf_event_open": (298, 241), "fanotify_init": (300, 262),
    "open_by_handle_at": (304, 265), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "kexec_load": (246, 104), "kexec_file_load": (320, 294),
    "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89),
    "quotactl": (179, 60), "quotactl_fd": (443, 443), "syslog": (103, 116),
    "sethostname": (170, 161), "setdomainname": (171, 162), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171),
    "iopl": (172, None), "ioperm": (173, None),
    # What changes a file's mode, owner, times and attributes, for which Landlock has no right.
    "chmod": (90, None), "fchmod": (91, 52), "chown": (92, None), "fchown": (93, 55),
    "lchown": (94, None), "utime": (132, None), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15),
    "fremovexattr": (199, 16), "utimes": (235, None), "fchownat": (260, 54),
    "futimesat": (261, None), "fchmodat": (268, 53), "utimensat": (280, 88),
    "fchmodat2": (452, 452), "setxattrat": (463, 463), "removexattrat": (466, 466),
    "file_setattr": (469, 469),
}  # fmt: skip
_names = tuple(NUMBERS)
_ARCHITECTURES: Final = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}


def _between(first: str, last: str) -> tuple[str, ...]:
    return _names[_names.index(first) : _names.index(last) + 1]


NEVER: Final = ("io_uring_setup", *_between("ptrace", "ioperm"))
"""What no child of ours may do, be it QEMU, gvproxy or qemu-img."""
SANDBOXES: Final = ("unshare", "setns", "setuid", "setgid", "setgroups")
"""Of these, by which a program gives up what it has, in a sandbox that it makes for itself."""
ATTRIBUTES: Final = _between("chmod", "file_setattr")
"""What changes a file that is there, and is not opened for that."""
MODES: Final = (
    "chmod", "fchmod", "fchmodat", "fchmodat2", "utime", "utimes", "futimesat", "utimensat",
)  # fmt: skip
"""Of these, what changes its mode and its times."""


def known() -> bool:
    """Whether the numbers of the architecture that we run on are known."""
    return platform.machine() in _ARCHITECTURES


def architecture() -> int:
    """Return how the kernel calls the architecture that we run on."""
    return _ARCHITECTURES[platform.machine()][0]


def number(name: str) -> int:
    """Return a call's number on the architecture that we run on; -1 where there is no such call."""
    found = NUMBERS[name][_ARCHITECTURES[platform.machine()][1]]
    return -1 if found is None else found
