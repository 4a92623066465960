"""How a setting's text becomes a guest, or says where images come from; see `parse`."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from pytest_vmports.errors import SettingError, VmPortsError
from pytest_vmports.system.paths import absolute

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_vmports.guests.guest import Guest

BUNDLED = ("alpine", "alpine-disk")


def mirrors(value: Any) -> Mapping[str, str]:
    """Read a mirror's address by distribution: a mapping, or ``distribution=address`` words."""
    from pytest_vmports.guests.catalogue import DISTRIBUTIONS

    allowed = "write a distribution and an address, as debian=https://mirror.example/images/cloud"
    if isinstance(value, Mapping):
        pairs = [(str(name), str(address)) for name, address in value.items()]
    else:
        said = " ".join(value) if isinstance(value, list) else str(value or "")
        pairs = [word.partition("=")[::2] for word in said.replace(",", " ").split()]
    known = [one.name for one in DISTRIBUTIONS]
    for name, address in pairs:
        if name not in known:
            raise ValueError(f"{allowed}; distributions are {', '.join(known)}, and not {name!r}")
        if not re.match(r"https?://[^/]", address):
            raise ValueError(f"{allowed}; {address!r} is no address by http or https")
    return dict(pairs)


def guest(value: Any, root: Path | None = None) -> str | Guest | Callable[[], Guest]:
    """Read a bundled guest's name, an image's name, path or address, or what makes a `Guest`."""
    allowed = (
        "write alpine, alpine-disk, the name of an image as debian-13, its address, a container "
        "image as docker://nginx:1.27 or oci:build/app.tar, the path of an image (with a / or "
        "ending in .qcow2, .img or .raw), module:attribute that names a Guest or a function that "
        "returns one, or give a Guest"
    )
    if isinstance(value, str) and value in BUNDLED:
        return value
    from pytest_vmports.guests.guest import Guest

    if isinstance(value, Guest):
        return value
    if isinstance(value, str) and (to_fetch := _to_fetch(value, allowed)) is not None:
        return to_fetch
    by_name = isinstance(value, str) and re.search(r"/|\.(?:qcow2|img|raw)$", value)
    if by_name or hasattr(value, "__fspath__"):
        return str(absolute(str(value), root))
    found = value
    if isinstance(value, str):
        if not re.fullmatch(r"[\w.]+:[\w.]+", value):
            raise ValueError(allowed)
        found = _attribute(value, allowed)
    if isinstance(found, Guest):
        return found
    if callable(found) and not isinstance(found, type):
        made: Callable[[], Guest] = found
        return made
    raise TypeError(f"{allowed}; {value} is a {type(found).__name__}")


def made_by(make: Callable[[], Guest]) -> Guest:
    """Return what a function that was given as the guest returns; it is called once per process.

    Its ports are asked for before its VM is, and both again for each VM that is made ready ahead.
    """
    return _made_by(make) if isinstance(make, Hashable) else make()


@lru_cache(maxsize=64)
def _made_by(make: Callable[[], Guest]) -> Guest:
    return make()


def _to_fetch(value: str, allowed: str) -> Guest | Callable[[], Guest] | None:
    """Return the guest of an image that is fetched; None where the text means something else."""
    from pytest_vmports.guests import catalogue, source

    if source.names_container(value):
        return _container(value)
    if catalogue.release(value) or re.match(r"[a-zA-Z]\w+:/", value):
        return _image(value)
    if catalogue.looks_like_one(value):
        raise ValueError(f"{allowed}; {catalogue.hint(value)}")
    return None


# The same for all tests, which are told apart by what they boot; and made when a VM is, since the
# bundled kernel may not be here.
@lru_cache
def _container(value: str) -> Callable[[], Guest]:
    from pytest_vmports.guests.guest import Guest

    return partial(Guest.oci, value)


def _image(value: str) -> Guest:
    from pytest_vmports.guests.guest import Guest

    try:
        return Guest.image(value)
    except SettingError as error:
        raise ValueError(error.allowed) from error


def _attribute(name: str, allowed: str) -> Any:
    import pkgutil

    try:
        return pkgutil.resolve_name(name)
    except (ImportError, AttributeError, VmPortsError) as error:
        raise ValueError(f"{allowed}; {name} cannot be loaded: {error}") from error
