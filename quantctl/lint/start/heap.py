"""What objects, dictionaries and lists of a followed program hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from quantctl.lint.start.syntax import Code
from quantctl.lint.start.values import UNKNOWN, Lambda, Named, Ref

Env = dict[str, Any]
"""A function's variables; `__module__` is where its text stands, `__of__` the class of a method."""
SHARED = "__shared__"
"""In a function's variables: the names that it declares global."""
ITEMS = "__items__"
"""In the heap: a list's elements, a tuple, or UNKNOWN."""
CLASS = "__class__"
"""In the heap: an object's class, a Named."""
LOST = "__lost__"
"""In the heap: a dictionary that may have other keys."""


class Heap:
    """The part of a run that knows objects."""

    heap: dict[Any, dict[Any, Any]]
    """By number; of the module whose function is followed the variables that its functions change, by its name."""
    value: Callable[[Code, Env], Any]

    def new(self, fields: dict[Any, Any]) -> Ref:
        self.heap[len(self.heap)] = fields
        return Ref(len(self.heap) - 1)

    def new_list(self, items: Any) -> Ref:
        return self.new({ITEMS: items})

    def is_list(self, value: Any) -> bool:
        return isinstance(value, Ref) and ITEMS in self.heap[value.id]

    def plain(self, value: Any, deep: bool = True) -> Any:
        """Lists as tuples; what else is in the heap stays a reference."""
        if self.is_list(value):
            value = self.heap[value.id][ITEMS]
        return tuple(map(self.plain, value)) if deep and isinstance(value, tuple) else value

    def elements(self, value: Any) -> tuple[Any, ...] | None:
        """What a loop over a value goes through; None if that is not known."""
        value = self.plain(value, False)
        if isinstance(value, Ref):
            fields = self.heap[value.id]
            return None if CLASS in fields or LOST in fields else tuple(fields)
        return tuple(value) if isinstance(value, (tuple, str)) else None

    def truth(self, value: Any) -> bool | None:
        """Whether a value counts as true; None if that is not known."""
        value = self.plain(value, False)
        if value is UNKNOWN:
            return None
        if isinstance(value, Ref):
            fields = self.heap[value.id]
            return True if CLASS in fields else None if LOST in fields else bool(fields)
        return True if isinstance(value, (Named, Lambda)) else bool(value)

    def store(self, target: Code, value: Any, env: Env) -> None:
        kind = target[0]
        if kind == "n" and target[1] in env.get(SHARED, ()):
            self.heap.get(env["__module__"], {})[target[1]] = value
        elif kind == "n":
            env[target[1]] = value
        elif kind == "a":
            owner = self.value(target[1], env)
            if isinstance(owner, Ref):
                self.heap[owner.id][target[2]] = value
        elif kind == "idx":
            self._store_element(self.value(target[1], env), self.value(target[2], env), value)
        elif kind in ("list", "tuple"):
            items = self.plain(value, False)
            fits = isinstance(items, tuple) and len(items) == len(target) - 1
            for index, one in enumerate(target[1:]):
                self.store(one, items[index] if fits else UNKNOWN, env)

    def _store_element(self, owner: Any, key: Any, value: Any) -> None:
        if not isinstance(owner, Ref):
            return
        fields = self.heap[owner.id]
        items = fields.get(ITEMS)
        if ITEMS not in fields and isinstance(key, (str, int, Named)):
            fields[key] = value
        elif isinstance(items, tuple) and isinstance(key, int) and -len(items) <= key < len(items):
            fields[ITEMS] = tuple(value if each == key % len(items) else one for each, one in enumerate(items))
        else:
            self.lose(owner)

    def lose(self, value: Any) -> None:
        """Whatever an object holds is not known any more."""
        if isinstance(value, Ref):
            fields = self.heap[value.id]
            lost = [key for key in fields if key != CLASS]
            fields.update(dict.fromkeys(lost if ITEMS in fields else [*lost, LOST], UNKNOWN))

    def lose_shared(self) -> None:
        """A function that is not followed may have changed any module's variables."""
        for key, fields in self.heap.items():
            if isinstance(key, str):
                fields.update(dict.fromkeys(fields, UNKNOWN))

    def join(self, one: dict[Any, dict[Any, Any]], other: dict[Any, dict[Any, Any]]) -> None:
        """Let `one` stand for both heaps: what they differ in is not known."""
        for key, fields in other.items():
            here = one.setdefault(key, fields)
            if here == fields:
                continue
            if here.keys() != fields.keys() and CLASS not in here:
                here[LOST] = UNKNOWN
            join(here, fields)


def join(one: dict[Any, Any], other: dict[Any, Any]) -> None:
    """Let `one` stand for both: what they differ in is not known."""
    for name in {*one, *other}:
        here, there = one.get(name, UNKNOWN), other.get(name, UNKNOWN)
        if here is not there and (type(here) is not type(there) or here != there):
            one[name] = UNKNOWN
