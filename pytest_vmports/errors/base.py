"""What all errors have in common: their facts are fields, which survive ``pickle``."""

from __future__ import annotations

import re
import sys
from typing import Any, ClassVar

from pytest_vmports.errors.shown import printable, quoted, within

_PUBLIC = "pytest_vmports.errors"
# Fields that hold lines of a guest, or of a program that may repeat what it said.
_HEARD = ("console", "stderr", "said", "errors", "detail", "reply", "panic", "crash")


class VmPortsError(Exception):
    """Base of all errors of pytest-vmports.

    Subclasses name their fields in ``template``; the message is made from them, so an error can
    be rebuilt from its fields alone. Fields are as they were, the message is fit to be shown.
    """

    __module__ = _PUBLIC
    template: ClassVar[str] = "{message}"

    @property
    def lacking(self) -> bool:
        """Whether something that a test needs is not here: `missing = skip` lets it be skipped."""
        return False

    def __init_subclass__(cls) -> None:
        # Where it is imported from, and what a report calls it.
        if cls.__module__.startswith(f"{_PUBLIC}."):
            cls.__module__ = _PUBLIC

    def __init__(self, message: str | None = None, **fields: Any) -> None:
        self.fields: dict[str, Any] = fields if message is None else {"message": message, **fields}
        text = printable(self._told() if message is None else message)
        # Behind a console it would look like the guest's words.
        between = "\n" if "\n" in text else " "
        text = f"{text}{between}[{self.address()}]"
        _hide_frames()
        # Not super(): some are also errors of subprocess, which are made from other arguments.
        Exception.__init__(self, text)

    def _told(self) -> str:
        """Return the template with its fields, in which each line of a guest's tells that it is."""
        shown = dict(self.fields)
        for name in _HEARD:
            if isinstance(said := shown.get(name), str):
                begins = re.search(rf"(?:^|\n){{{name}}}", self.template)
                shown[name] = quoted(said) if begins else within(said)
        return self.template.format_map(shown)

    @classmethod
    def address(cls) -> str:
        """Return the command that tells more of this error: by its name without "Error"."""
        words = re.findall("[A-Z][a-z]+", cls.__name__.removesuffix("Error"))
        return "pytest-vmports explain " + "-".join(words).lower()

    def __getattr__(self, name: str) -> Any:
        # Only reached when normal lookup failed: an error's facts read as attributes.
        fields = self.__dict__.get("fields", {})
        if name in fields:
            return fields[name]
        raise AttributeError(f"{type(self).__name__} has no field {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild, (type(self), self.args[0], self.fields)


def _hide_frames() -> None:
    """Have pytest hide our frames too where it asks no plugin, as while it imports one."""
    frame = sys._getframe(1)  # noqa: SLF001 - inspect's takes long to import
    while (up := frame.f_back) is not None:
        if str(frame.f_globals.get("__name__")).startswith("pytest_vmports."):
            frame.f_globals["__tracebackhide__"] = True
        frame = up


def rebuild(kind: type[VmPortsError], message: str, fields: dict[str, Any]) -> VmPortsError:
    """Return an error with this whole message, from another process or moment."""
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    error.fields = fields
    return error
