"""What terminals and CI's programs would obey in a text, told in our own words beside the code."""

from __future__ import annotations

import re
import unicodedata

# Each as a guest may write it to its console, a file's name or an answer, and what is still to be
# read of it when it has been made harmless.
HOSTILE = {
    "GitHub: a mask": ("::add-mask::e", "add-mask::e"),
    "GitHub: an error": ("  ::error file=app.py,line=1::lost", "error file=app.py,line=1::lost"),
    "GitHub: stop": ("\t::stop-commands::again", "stop-commands::again"),
    "GitHub: output": ("::set-output name=token::stolen", "set-output name=token::stolen"),
    "GitHub: older": ("words ##[add-mask]secret", "[add-mask]secret"),
    "Azure": (
        "words ##vso[task.setvariable variable=PATH]/tmp",
        "vso[task.setvariable variable=PATH]/tmp",
    ),
    "Azure: in capitals": ("##VSO[task.complete result=Succeeded;]", "VSO[task.complete result="),
    "Azure: a line's look": ("##[error]no error", "[error]no error"),
    "TeamCity": (
        "words ##teamcity[buildStatus status='SUCCESS']", "teamcity[buildStatus status='SUCCESS']",
    ),
    "GitLab": ("section_start:1700000000:lost[collapsed=true]\r\x1b[0Kx", ":1700000000:lost"),
    "Travis": ("travis_fold:start:lost\r\x1b[0K", "fold:start:lost"),
    "Buildkite": ("--- a group", "--- a group"),
    "Buildkite: open": ("+++ a group", "+++ a group"),
    "Buildkite: the last": ("^^^ +++", "^^^ +++"),
    "Buildkite: a time": ("\x1b_bk;t=0\x07", "bk;t=0"),
    "Jenkins": ("\x1b[8mha:AAAAAA==\x1b[0m", "ha:AAAAAA=="),
    "ctest": ("<CTestMeasurementFile type='file' name='x'>/etc/passwd</CTestMeasurementFile>",
              "/etc/passwd"),
    "Jenkins, GitLab: a file": (
        "words [[ATTACHMENT|/etc/passwd]]", "ATTACHMENT|/etc/passwd]]",
    ),
    "LAVA": (
        "[ 1.0] <LAVA_SIGNAL_TESTCASE TEST_CASE_ID=a RESULT=pass>", "TESTCASE TEST_CASE_ID=a",
    ),
    "a title": ("\x1b]0;owned\x07", "owned"),
    "the clipboard": ("\x1b]52;c;cm0gLXJm\x1b\\", "52;c;cm0gLXJm"),
    "a link": ("\x1b]8;;file:///etc/passwd\x1b\\here\x1b]8;;\x1b\\", "here"),
    "a question": ("\x1b[6n\x1b[c\x1b[>q\x1bZ", ""),
    "keys": ("\x1b[>4;2m\x1b[?2004h", ""),
    "the cursor": ("\x1b[1A\x1b[2Kerased", "erased"),
    "one byte's": ("\x9b31m\x9d0;owned\x9c", "owned"),
    "a device": ("\x1bP+q544e\x1b\\", "+q544e"),
    "a carriage": ("failed\rpassed", "passed"),
    "a backspace": ("failed\b\b\b\b\b\bpassed", "passed"),
    "nothing": ("a\0b", "b"),
    "right to left": ("a\u202egnp.exe\u2066", "gnp.exe"),
    "no width": ("##\u200bvso[task.x]\ufeff\u2060", "task.x"),
    "no width, a letter": ("a\u3164b\u034fc\U000e0041", "c"),
    "two lines more": ("a\u2028::add-mask::b\x85::add-mask::c\x0b::add-mask::d", "add-mask::d"),
    "marks on the lines around": ("a" + "\u0335\u0301" * 50 + "b", "b"),
    "half a letter": ("\udcff", ""),
}  # fmt: skip
_COLOUR = re.compile(r"\x1b\[(?:0|1|04|[39][0-7]|39;49;00)?m")


def heeded(text: str, *, colours: bool = False, groups: bool = False) -> list[str]:
    """Return what of a text is obeyed, or cannot be seen.

    Args:
        text: as it comes to a terminal or a log.
        colours: plain ones are no harm.
        groups: lines that Buildkite takes for headings count too.
    """
    if colours:
        text = _COLOUR.sub("", text)
    found = [f"{c!r} in {text[max(0, at - 20):at + 20]!r}"
             for at, c in enumerate(text) if not _seen(c)]  # fmt: skip
    lines = re.split(r"[\r\n]", text)
    found += [line for line in lines if re.match(r"\s*::\w[^\n]*::", line)]
    found += re.findall(r"##\w*\[.*|(?:section_(?:start|end)|travis_\w+):.*", text)
    found += re.findall(r"<(?:CTest|Dart)Measurement.*|<LAVA_SIGNAL_.*|\[\[ATTACHMENT\|.*", text)
    found += re.findall(r"[\u0300-\u036f]{9}", text)
    if groups:
        found += [line for line in lines if re.match(r"(?:---|\+\+\+|~~~|\^\^\^) ", line)]
    return found


def _seen(character: str) -> bool:
    if character in "\n\t ":
        return True
    category = unicodedata.category(character)
    hidden = character in "\u3164\u034f\u115f\u1160\uffa0"
    return category[0] not in "CZ" and not hidden
