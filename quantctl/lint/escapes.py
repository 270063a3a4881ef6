"""`$'...'`: the escapes of ANSI C as bash reads them; `echo -e` and printf share most of them."""

from __future__ import annotations

import re

_SIMPLE = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "e": "\x1b", "E": "\x1b", "f": "\f", "v": "\v",
           "\\": "\\", "'": "'", '"': '"', "?": "?"}  # fmt: skip
_ESCAPE = re.compile(
    r"\\(?:([ntrabeEfv\\'\"?])|([0-7]{1,3})|x([0-9A-Fa-f]{1,2})|u([0-9A-Fa-f]{1,4})|U([0-9A-Fa-f]{1,8})|(c))"
)


def ansi_c(text: str) -> str | None:
    """The text meant; None for control characters, and for codes that are no text by themselves."""
    found: list[str] = []
    end = 0
    for match in _ESCAPE.finditer(text):
        found.append(text[end : match.start()])
        end = match.end()
        if match[6]:
            return None
        code = int(match[2], 8) if match[2] else int(match[3] or match[4] or match[5] or "0", 16)
        sign = _SIMPLE[match[1]] if match[1] else chr(code) if 0 < code < 128 else None
        if sign is None:
            return None
        found.append(sign)
    return "".join([*found, text[end:]])
