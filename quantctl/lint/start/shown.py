"""Conditions of a followed program as people read them."""

from __future__ import annotations

from quantctl.lint.start.syntax import Code

_SIGNS = {"Eq": "==", "NotEq": "!=", "Lt": "<", "LtE": "<=", "Gt": ">", "GtE": ">=", "Is": "is", "IsNot": "is not",
          "In": "in", "NotIn": "not in", "Mod": "%", "Add": "+", "Sub": "-", "Mult": "*", "FloorDiv": "//",
          "Div": "/"}  # fmt: skip


def shown(code: Code) -> str:
    """A condition as people read it."""
    kind = code[0]
    if kind == "c":
        return repr(code[1])
    if kind == "n":
        return str(code[1])
    if kind == "a":
        owner = shown(code[1])
        return code[2] if owner in ("args", "self") else f"{owner}.{code[2]}"
    if kind in ("and", "or"):
        return f" {kind} ".join(map(shown, code[1:]))
    if kind == "not":
        return f"not {shown(code[1])}"
    if kind == "cmp":
        return shown(code[1]) + "".join(f" {_SIGNS.get(sign, sign)} {shown(part)}" for sign, part in code[2])
    if kind == "bin":
        return f"{shown(code[2])} {_SIGNS.get(code[1], code[1])} {shown(code[3])}"
    if kind in ("list", "tuple", "set"):
        return "[" + ", ".join(map(shown, code[1:])) + "]"
    if kind == "call":
        return f"{shown(code[1])}({', '.join(map(shown, code[2]))})"
    return "…"
