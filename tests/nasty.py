"""Names of files that a file system takes, and that some syntax on the way gives a meaning."""

import os

NASTY = {
    "a blank": "a b", "a comma": "a,b", "a per cent": "a%41b", "a query": "a?b", "a hash": "a#b",
    "quotes": "a'b\"c", "a newline": "a\nb", "a backslash": "a\\b", "a colon": "a:b",
    "an equals sign": "a=b", "bytes that are no UTF-8": os.fsdecode(b"a\xffb"),
    "a newline at the end": "a\n", "blanks around it": " a ",
    "a leading dash": "-a", "a tilde": "~a", "a dollar": "$HOME`id`", "a star": "a*[b]{c}",
    "a control character": "a\x1b[1mb", "a separator of lines": "a\u2028b\x85",
    "200 bytes of other characters": "ü€" * 40,
}  # fmt: skip
EVERYTHING = "a b,c%41?#'\"\\:=$~ü"
"""All that the folder of sockets itself can have in its path, below the longest."""
