"""Other releases of Debian in which this checkout's tests can run, with their QEMU and Python.

mmdebstrap puts a small system together from the mirror that this machine gets its own packages
from, and pip installs what pyproject.toml names with the Python of that system. Both are kept in
the user's cache folder; a system is made anew after a week, so that it is what Debian serves now.

What runs in one sees the system and the checkout read-only, a /tmp, a home and devices of its own,
and no network but its own loopback. All of that hangs on namespaces of its processes, and they
die with the program that started them: nothing stays running or mounted.

Signatures are checked with this system's keyring. That of Debian 12 (2023.3+deb12u2) has the keys
of trixie, which sign sid too; an older one makes mmdebstrap fail with the name of the lacking key.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from apt_sources import release, write_entry
from cached import CannotMakeError, cached

CHECKOUT = Path(__file__).resolve().parent.parent
DAYS = 7
PACKAGES = (
    "qemu-system-x86", "qemu-utils", "python3-venv", "openssh-client", "util-linux", "iproute2",
    "virtiofsd", "e2fsprogs", "passt",
)  # fmt: skip
PROGRAMS = ("mmdebstrap", "apt-get", "tar", "unshare", "setpriv", "findmnt")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Run by this machine's bash as the first process of new namespaces, and so the one that buries the
# children whose parents have died. Its arguments: the system, "own" for a network of its own, the
# number of things to see, those as pairs of where each is and where it shall be seen, the command.
ENTER = r"""
set -eu
root=$1 network=$2 count=$3
shift 3
bind() {
  if [ -d "$1" ]; then mkdir -p "$root$2"; else mkdir -p "$root${2%/*}"; : >>"$root$2"; fi
  mount --rbind "$1" "$root$2"
}
read_only() {
  # In a user namespace the kernel insists on the options that the mount came with.
  mount -o "remount,bind,$(findmnt -nro VFS-OPTIONS --target "$1" | sed 's/^rw/ro/')" "$1"
}
mount --bind "$root" "$root"
mount -t tmpfs -o mode=755 dev "$root/dev"
for name in null zero full random urandom tty; do bind "/dev/$name" "/dev/$name"; done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
mount -t tmpfs -o mode=755 run "$root/run"
mount -t tmpfs -o mode=700 home "$root/root"
mount -t proc proc "$root/proc"
while [ "$count" -gt 0 ]; do
  bind "$1" "$2"
  [ "$2" = "${WRITABLE-}" ] || read_only "$root$2"
  shift 2
  count=$((count - 1))
done
read_only "$root"
# Not by chroot: who is in one can make no namespace of users, which passt does.
cd "$root"
pivot_root . .
umount -l .
export PATH
[ "$network" != own ] || ip link set lo up
set +e
sh -c 'cd /checkout && exec "$@"' sh "$@"
exit $?
"""


def missing() -> str:
    """Return what keeps this machine from making and entering such a system, or ``""``."""
    # mmdebstrap's own users in a user namespace.
    programs = PROGRAMS if os.geteuid() == 0 else (*PROGRAMS, "newuidmap")
    lacking = [name for name in programs if shutil.which(name, path=PATH) is None]
    if release("ID") != "debian":
        lacking.insert(0, "a Debian system, whose sources of packages and keys are used")
    if lacking:
        return f"missing: {', '.join(lacking)}"
    trial = [*_namespaces(), "--net", "mount", "-t", "proc", "proc", "/proc"]
    tried = subprocess.run(trial, capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"missing: root, or user namespaces that may mount: {' '.join(tried.stderr.split())}"
    return ""


def _namespaces() -> list[str]:
    """Return the command behind which a command has mounts, processes and users of its own."""
    as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["setpriv", "--pdeathsig", "KILL", "unshare", *as_root,
            "--mount", "--pid", "--fork", "--kill-child"]  # fmt: skip


@dataclass(frozen=True)
class Chroot:
    """A release of Debian with what the tests need.

    Attributes:
        suite: the release's name.
        root: its root folder.
        venv: seen in there as /venv.
    """

    suite: str
    root: Path
    venv: Path

    def run(self, *command: str, **keywords) -> subprocess.CompletedProcess:
        """Run a command in the checkout, without network; keywords as for `subprocess.run`."""
        return _enter(self.root, self.venv, command, **keywords)


def chroot(suite: str, *packages: str) -> Chroot:
    """Return a release's system, made when there is none or it is old.

    Args:
        suite: the release's name.
        packages: what pip installs there beside the project, in place of what its tests need.

    Raises:
        CannotMakeError: it could not be made.
    """
    shape = f"{PACKAGES}{inspect.getsource(_bootstrap)}".encode()
    root = cached(f"chroot-{suite}", shape, lambda out: _bootstrap(suite, out), days=DAYS)
    shape = f"{root.name}{inspect.getsource(_install)}{packages}".encode()
    shape += (CHECKOUT / "pyproject.toml").read_bytes()
    name = f"few_{suite}" if packages else f"venv-{suite}"
    return Chroot(suite, root, cached(name, shape, lambda out: _install(root, out, packages)))


def _bootstrap(suite: str, out: Path) -> None:
    print(f"putting {suite} together", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # without root mmdebstrap reads in there as another user
        entry = write_entry(
            Path(folder), release("VERSION_CODENAME"), suite=suite, components="main"
        )
        if entry is None:
            raise CannotMakeError("apt's sources have no entry of this release to copy")
        # Proxies, timeouts and the like. A mirror may lag, and sid's lists expire after a week.
        options = Path(folder, "options")
        with options.open("w") as file:
            subprocess.run(["apt-config", "dump", "Acquire"], stdout=file, check=True)
            file.write('Acquire::Check-Valid-Until "false";\n')
        archive = Path(folder, "system.tar")
        _done(
            ["mmdebstrap", "--variant=minbase", f"--aptopt={options}",
             f"--include={','.join(PACKAGES)}", suite, str(archive), str(entry)],
        )  # fmt: skip
        # Not as a folder: without root that would belong to other users than the one who runs it.
        # The device files are left out for that too, and the mirror's settings as not needed.
        owner = [] if os.geteuid() == 0 else ["--no-same-owner"]
        left_out = ["--exclude=./dev/*", "--exclude=./etc/apt/*"]
        _done(["tar", "-xf", str(archive), "-C", str(out), *left_out, *owner])


def _install(root: Path, out: Path, packages: tuple[str, ...]) -> None:
    print("installing the Python packages", flush=True)
    pip = '/venv/bin/python -m pip --quiet --no-input install "$@"'
    others = shlex.join(packages) if packages else "--group test"
    script = f"""set -e
    python3 -m venv /venv
    pip() {{ {pip}; }}
    pip 'pip>=25.1'
    pip --editable '.[alpine,cloud,images,rich,store,xdist]' {others}"""
    _done(["sh", "-c", script], root, out)


def _done(command: list[str], root: Path | None = None, venv: Path | None = None) -> None:
    keywords = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "text": True,
                "stderr": subprocess.STDOUT, "errors": "replace"}  # fmt: skip
    if root is None:
        path = f"{os.environ.get('PATH', '')}:{PATH}"
        done = subprocess.run(command, check=False, env={**os.environ, "PATH": path}, **keywords)
    else:
        done = _enter(root, venv, command, installing=True, **keywords)
    if done.returncode:
        raise CannotMakeError(f"{command[0]} ended with {done.returncode}:\n{done.stdout[-3000:]}")


def _enter(root: Path, venv: Path, command, *, installing: bool = False, **keywords):
    environment = _environment()
    see = {Path("/checkout"): CHECKOUT, Path("/venv"): venv, Path("/etc/hosts"): Path("/etc/hosts")}
    if installing:
        # PyPI as pip reaches it out here: by the same settings, certificates and name servers.
        environment |= {"WRITABLE": "/venv", **_pip_settings()}
        see |= {path: path for path in (Path("/etc/resolv.conf"), *_named_in(environment))}
    pairs = [str(path) for seen, where in see.items() for path in (where, seen)]
    return subprocess.run(
        [*_namespaces(), *([] if installing else ["--net"]), "bash", "-c", ENTER, "bash", str(root),
         "hosts" if installing else "own", str(len(see)), *pairs, *command],
        env=environment, check=False, **keywords,
    )  # fmt: skip


def _environment() -> dict[str, str]:
    kept = ("TERM", "COLUMNS", "NO_COLOR", "FORCE_COLOR", "PY_COLORS")
    # The plugin finds the newer one by itself, as it does out here.
    gvproxies = sorted((path.name for path in CHECKOUT.glob(".tools/gvproxy-*")), reverse=True)
    return {
        **{name: os.environ[name] for name in kept if name in os.environ},
        "PATH": ":".join(["/venv/bin", *(f"/checkout/.tools/{name}" for name in gvproxies), PATH]),
        "HOME": "/root",
        "LC_ALL": "C.UTF-8",
        "CI": "true",  # what is missing fails its tests
        "HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/hypothesis",  # not in the checkout
    }


def _pip_settings() -> dict[str, str]:
    """Return pip's settings of all files and of the environment, and what its connections need."""
    said = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    settings = {}
    for key, value in re.findall(r"^(?:global|install)\.([\w-]+)=(.*)$", said, re.MULTILINE):
        name = "PIP_" + key.upper().replace("-", "_")
        settings[name] = " ".join(str(ast.literal_eval(value)).split())
    ours = re.compile(r"PIP_.*|.*(CERT|CA_BUNDLE).*|(https?|all|no)_proxy", re.IGNORECASE)
    return settings | {name: value for name, value in os.environ.items() if ours.fullmatch(name)}


def _named_in(environment: dict[str, str]) -> list[Path]:
    """Return the files and folders that settings name, each also where it lies in another."""
    words = " ".join(v for n, v in environment.items() if n not in _environment()).split()
    found = {Path(word.removeprefix("file://")) for word in words} | {Path("/etc/ssl/certs")}
    return sorted(path for path in found if path.is_absolute() and path.exists() and not any(
        parent in found for parent in path.parents))  # fmt: skip
