"""Brace expansion: `{a,b}c` and `{1..3}`, which bash carries out on a word's text before anything else."""

from __future__ import annotations

import re

_RANGE = re.compile(r"(-?\d{1,9})\.\.(-?\d{1,9})(?:\.\.(-?\d{1,9}))?|([A-Za-z])\.\.([A-Za-z])(?:\.\.(-?\d{1,9}))?")
_MOST = 10_000


def _skip(text: str, at: int) -> int:
    """Behind what stands at `at`: one character, or quoted text, or an expansion, as one."""
    sign = text[at]
    if sign == "\\":
        return at + 2
    if sign == "$" and text[at + 1 : at + 2] == "'":
        at += 2
        while at < len(text) and text[at] != "'":
            at += 2 if text[at] == "\\" else 1
        return at + 1
    if sign in "'`":
        end = text.find(sign, at + 1)
        return len(text) if end < 0 else end + 1
    if sign == '"':
        at += 1
        while at < len(text) and text[at] != '"':
            at = _skip(text, at) if text[at] in "\\$`" else at + 1
        return at + 1
    if sign == "$" and text[at + 1 : at + 2] in ("{", "("):
        closing = {"{": "}", "(": ")"}[text[at + 1]]
        at, depth = at + 2, 1
        while at < len(text) and depth:
            if text[at] in "'\"\\$`":
                at = _skip(text, at)
                continue
            depth += (text[at] == "(" and closing == ")") - (text[at] == closing)
            at += 1
        return at
    return at + 1


def _group(text: str, start: int) -> tuple[int, list[str]] | None:
    """Where the brace at `start` closes, and what its commas separate; None if it is an ordinary character."""
    at, depth, begin = start + 1, 1, start + 1
    pieces: list[str] = []
    while at < len(text):
        sign = text[at]
        if sign == "{":
            depth += 1
        elif sign == "}":
            depth -= 1
            if not depth:
                return at, [*pieces, text[begin:at]]
        elif sign == "," and depth == 1:
            pieces.append(text[begin:at])
            begin = at + 1
        at = _skip(text, at)
    return None


def _range(text: str) -> list[str] | None:
    match = _RANGE.fullmatch(text)
    if match is None:
        return None
    letters = match[4] is not None
    first, last = (ord(match[4]), ord(match[5])) if letters else (int(match[1]), int(match[2]))
    step = abs(int(match[6 if letters else 3] or 1)) or 1
    if abs(last - first) // step >= _MOST:
        return None
    numbers = range(first, last + (1 if last >= first else -1), step if last >= first else -step)
    if letters:
        return [chr(number) for number in numbers]
    padded = [word for word in match.group(1, 2) if re.fullmatch(r"-?0\d+", word)]
    width = max(len(match[1]), len(match[2])) if padded else 0
    return [f"{number:0{width}d}" for number in numbers]


def _either(pieces: list[str]) -> list[str] | None:
    found = [expand(piece) for piece in pieces]
    return None if None in found else [one for words in found for one in words or ()]


def expand(text: str) -> list[str] | None:
    """The words that a word's source becomes; None if they are more than are followed, or not understood."""
    if "{" not in text:
        return [text]
    at = 0
    while at < len(text):
        if text[at] != "{":
            end = _skip(text, at)
            if text[at : at + 2] == "${" and re.search(r"(?<!\$)\{", text[at + 2 : end]):
                return None  # bash counts the inner one, too
            at = end
            continue
        group = _group(text, at)
        if group is not None:
            end, pieces = group
            inner = _either(pieces) if len(pieces) > 1 else _range(pieces[0])
            if inner is not None:
                tails = expand(text[end + 1 :])
                if tails is None or len(inner) * len(tails) > _MOST:
                    return None
                return [text[:at] + one + tail for one in inner for tail in tails]
        at += 1
    return [text]
