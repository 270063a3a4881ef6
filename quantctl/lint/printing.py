"""`echo` and `printf`: what they print inside a command substitution, or put into a variable."""

from __future__ import annotations

from quantctl.lint.escapes import ansi_c
from quantctl.lint.fields import one_text
from quantctl.lint.inner import Reads
from quantctl.lint.redirections import Redirections
from quantctl.lint.world import MANY, UNKNOWN, Invocation, World, known
from quantctl.outside.numbers import whole

_MOST_ROUNDS = 1000


def echo(reader: Reads, invocation: Invocation, given: Redirections, world: World, depth: int) -> list[World]:
    words = list(invocation.argv[1:])
    end, escapes = "\n", False
    while words and words[0].startswith("-") and words[0][1:] and set(words[0][1:]) <= set("neE"):
        option = words.pop(0)
        end = "" if "n" in option else end
        escapes = "e" in option or (escapes and "E" not in option)
    text = one_text(" ".join(words))
    if escapes and "\\" in text:
        text = ansi_c(text) or UNKNOWN
    world.prints(text + end)
    return [world]


def printf(reader: Reads, invocation: Invocation, given: Redirections, world: World, depth: int) -> list[World]:
    words, variable = list(invocation.argv[1:]), None
    if words[:1] == ["-v"] and len(words) > 1:
        variable, words = words[1], words[2:]
    if words[:1] == ["--"]:
        words = words[1:]
    text = formatted(words[0], words[1:]) if words else ""
    if variable is None:
        world.prints(UNKNOWN if text is None else text)
    elif variable.isidentifier():
        world.assign(variable, UNKNOWN if text is None else text)
    return [world]


def formatted(form: str, words: list[str]) -> str | None:
    """What `printf FORM WORDS` prints, of %s, %d and %% with nothing between; None for anything else."""
    if not known(form) or any(MANY in word for word in words):
        return None
    found: list[str] = []
    rest = list(words)
    for _ in range(_MOST_ROUNDS):
        used = False
        at = 0
        while at < len(form):
            sign = form[at]
            if sign == "%":
                kind = form[at + 1 : at + 2]
                if kind == "%":
                    found.append("%")
                elif kind == "s":
                    found.append(rest.pop(0) if rest else "")
                    used = True
                elif kind == "d":
                    number = whole(rest.pop(0)) if rest else 0
                    used = True
                    if number is None:
                        return None
                    found.append(str(number))
                else:
                    return None
                at += 2
            elif sign == "\\":
                end = at + 2
                text = ansi_c(form[at:end])
                if text is None or form[at + 1 : at + 2] not in tuple("ntr\\\"'"):
                    return None
                found.append(text)
                at = end
            else:
                found.append(sign)
                at += 1
        if not rest or not used:
            return "".join(found)
    return None
