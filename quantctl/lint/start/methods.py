"""Python's own functions, and the methods of texts, lists and dictionaries, on what is known."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from quantctl.lint.start.heap import CLASS, ITEMS, LOST, Heap
from quantctl.lint.start.values import LONGEST, UNKNOWN, Lambda, Named, Ref, Stop, same, whole

_TEXT = ("startswith", "endswith", "split", "strip", "lstrip", "rstrip", "lower", "upper", "count", "replace",
         "isdigit", "partition", "rpartition", "removeprefix", "removesuffix", "find", "isalpha")  # fmt: skip


def _range(*words: int) -> Any:
    return tuple(range(*words)) if max(map(abs, words)) < LONGEST else UNKNOWN


_BUILT_IN: dict[str, Callable[..., Any]] = {
    "int": lambda value=0: int(value) if isinstance(value, (int, float, str)) else UNKNOWN,
    "float": lambda value=0.0: float(value) if isinstance(value, (int, float, str)) else UNKNOWN,
    "str": lambda value="": str(value) if isinstance(value, (int, float, str)) else UNKNOWN,
    "len": lambda value: len(value) if isinstance(value, (str, tuple)) else UNKNOWN,
    "abs": abs,
    "max": max,
    "min": min,
    "round": round,
    "sum": sum,
    "prod": math.prod,
    "range": _range,
    "tuple": lambda value=(): tuple(value),
    "set": lambda value=(): tuple(dict.fromkeys(value)),
    "list": lambda value=(): list(value),
    "sorted": sorted,
    "enumerate": lambda value, start=0: tuple(enumerate(value, start)),
    "zip": lambda *rows: tuple(zip(*rows, strict=False)),
    "ceil": math.ceil,
    "floor": math.floor,
    "sqrt": math.sqrt,
}
_ROWS = frozenset(("tuple", "set", "list", "sorted", "enumerate", "zip", "len"))
"""Those that go through the keys of a dictionary."""
MATCH, PATTERN = Named("Match"), Named("Pattern")
_RAISES = ("int", "float")
_KINDS: dict[str, type | tuple[type, ...]] = {"tuple": tuple, "str": str, "int": int, "float": float, "bool": bool}
_CAPTURE = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]")
_NESTED = re.compile(r"[*+?}]\)*[*+{]|\([^()]*[*+}][^()]*\)[*+{]|\([^()]*\(")


class Methods(Heap):
    """The part of a run that knows Python's own functions."""

    apply: Callable[[Lambda, list[Any]], Any]

    def built_in(self, name: str, words: list[Any]) -> Any:
        """A call of one of Python's own functions."""
        if name == "bool":
            answer = self.truth(words[0]) if words else False
            return UNKNOWN if answer is None else answer
        if name in ("any", "all") and len(words) == 1:
            row = self.elements(words[0])
            answers = [None] if row is None else [self.truth(one) for one in row]
            decided = name == "any"
            return decided if decided in answers else UNKNOWN if None in answers else not decided
        plain = [self.elements(word) if name in _ROWS and isinstance(word, Ref) else self.plain(word) for word in words]
        if name not in _BUILT_IN or not all(one is not None and whole(one) for one in plain):
            only_rows = name in ("list", "tuple", "len", "enumerate") and None not in plain and UNKNOWN not in plain
            if not only_rows or not isinstance(plain[0], (tuple, str)):
                return UNKNOWN
        try:
            found = _BUILT_IN[name](*plain)
        except ValueError as error:
            if name in _RAISES:
                raise Stop(f"ValueError: {error}") from None
            return UNKNOWN
        except (TypeError, ArithmeticError):
            return UNKNOWN
        return self.new_list(tuple(found)) if isinstance(found, list) else found

    def is_instance(self, value: Any, kind: Any) -> Any:
        """isinstance, for Python's own types and the tree's enumerations."""
        if isinstance(kind, tuple):
            answers = [self.is_instance(value, one) for one in kind]
            return True if True in answers else UNKNOWN if UNKNOWN in answers else False
        if value is UNKNOWN or not isinstance(kind, Named):
            return UNKNOWN
        listed, text = self.is_list(value), isinstance(value, (str, int, float, tuple)) or value is None
        if kind.name in ("list", "dict"):
            held = isinstance(value, Ref) and CLASS not in self.heap[value.id]
            return held and listed == (kind.name == "list")
        if kind.name in _KINDS and not kind.module:
            return isinstance(value, _KINDS[kind.name])
        if isinstance(value, Named):
            return f"{kind.module}.{kind.name}" == value.of if value.of and kind.module else UNKNOWN
        # what is written on a command line is of no class of the tree's or of PyTorch's
        return False if listed or (text and (kind.module or kind.name == "dtype")) else UNKNOWN

    def of_text(self, text: str, name: str, words: list[Any]) -> Any:
        """A method of a string."""
        plain = [self.plain(word) for word in words]
        if name == "format":
            return text
        if name == "join":
            rows = plain[0] if plain and isinstance(plain[0], tuple) else (UNKNOWN,)
            return text.join(rows) if all(isinstance(row, str) for row in rows) else UNKNOWN
        if name not in _TEXT or any(not isinstance(word, (str, int)) for word in plain):
            return UNKNOWN
        try:
            found = getattr(text, name)(*plain)
        except (TypeError, ValueError):
            return UNKNOWN
        return self.new_list(tuple(found)) if isinstance(found, list) else found

    def of_list(self, owner: Ref, name: str, words: list[Any]) -> Any:
        """A method of a list."""
        items = self.heap[owner.id][ITEMS]
        if items is UNKNOWN or any(word is UNKNOWN for word in words if name in ("extend", "insert", "pop", "remove")):
            self.lose(owner)
            return UNKNOWN
        if name == "count" and words:
            answers = [same(self.plain(one), self.plain(words[0])) for one in items]
            return UNKNOWN if None in answers else sum(map(bool, answers))
        more = self.elements(words[0]) if name == "extend" and words else (words[0],) if words else None
        if name in ("append", "extend") and more is not None and len(items) + len(more) <= LONGEST:
            self.heap[owner.id][ITEMS] = (*items, *more)
            return None
        if name == "pop" and items and (not words or words == [-1]):
            self.heap[owner.id][ITEMS] = items[:-1]
            return items[-1]
        if name == "copy":
            return self.new_list(items)
        self.lose(owner)
        return UNKNOWN

    def of_dictionary(self, owner: Ref, name: str, words: list[Any]) -> Any:
        """A method of a dictionary."""
        fields = self.heap[owner.id]
        known = LOST not in fields
        if name in ("get", "pop", "setdefault") and words and isinstance(words[0], (str, int, Named)):
            key, other = words[0], words[1] if len(words) > 1 else None
            found = fields.get(key, other if known else UNKNOWN)
            if name == "pop":
                fields.pop(key, None)
            elif name == "setdefault":
                fields[key] = found
            return found
        if name in ("keys", "values", "items"):
            if not known:
                return UNKNOWN
            return {"keys": tuple(fields), "values": tuple(fields.values()), "items": tuple(fields.items())}[name]
        if name == "update" and words and isinstance(words[0], Ref):
            fields |= self.heap[words[0].id]
            return None
        self.lose(owner)
        return UNKNOWN

    def compiled(self, words: list[Any]) -> Any:
        """`re.compile(PATTERN)`, where the pattern cannot take long."""
        fits = len(words) == 1 and isinstance(words[0], str) and not _NESTED.search(_CAPTURE.sub("x", words[0]))
        return self.new({CLASS: PATTERN, "pattern": words[0]}) if fits else UNKNOWN

    def of_pattern(self, owner: Ref, name: str, words: list[Any]) -> Any:
        """`PATTERN.search(TEXT)` and its like."""
        fits = len(words) == 1 and isinstance(words[0], str) and len(words[0]) <= LONGEST
        if not fits or name not in ("search", "match", "fullmatch"):
            return UNKNOWN
        try:
            found = getattr(re.compile(self.heap[owner.id]["pattern"]), name)(words[0])
        except re.error:
            return UNKNOWN
        return None if found is None else self._match(found)

    def _match(self, found: re.Match[str]) -> Ref:
        groups = {number: found.group(number) for number in range((found.re.groups or 0) + 1)}
        return self.new({CLASS: MATCH, "groups": self.new(groups)})

    def substituted(self, words: list[Any]) -> Any:
        """`re.sub(PATTERN, ..., TEXT)`, where the pattern cannot take long."""
        if len(words) != 3 or not isinstance(words[0], str) or not isinstance(words[2], str):
            return UNKNOWN
        plain = _CAPTURE.sub("x", words[0])
        if len(words[2]) > LONGEST or _NESTED.search(plain):
            return UNKNOWN
        try:
            pattern = re.compile(words[0])
        except re.error:
            return UNKNOWN
        found: list[str] = []
        end = 0
        for match in pattern.finditer(words[2]):
            by = words[1]
            if isinstance(by, Lambda):
                by = self.apply(by, [self._match(match)])
            elif isinstance(by, str) and "\\" in by:
                return UNKNOWN
            if not isinstance(by, str) or sum(map(len, found)) > LONGEST:
                return UNKNOWN
            found += [words[2][end : match.start()], by]
            end = match.end()
        return "".join([*found, words[2][end:]])
