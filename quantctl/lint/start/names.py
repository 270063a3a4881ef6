"""What names and attributes of a followed program mean: variables, the tree's own definitions, enumerations."""

from __future__ import annotations

from typing import Any

from quantctl.lint.start.heap import Env, Heap
from quantctl.lint.start.source import Class, Constant, Function, Outside, Tree
from quantctl.lint.start.syntax import Code
from quantctl.lint.start.values import UNKNOWN, Named, Ref

# fmt: off
_OWN = frozenset((
    "int", "float", "str", "bool", "list", "tuple", "dict", "set", "len", "any", "all", "isinstance", "getattr",
    "hasattr", "setattr", "max", "min", "sum", "abs", "range", "sorted", "super", "enumerate", "zip", "round",
))
_DTYPES = frozenset(("float32", "float", "bfloat16", "float16", "half", "uint8", "dtype"))
_TEXT_ENUMERATIONS = frozenset(("str", "StrEnum"))
_ENUMERATIONS = frozenset(("Enum", "IntEnum", "Flag", "IntFlag", *_TEXT_ENUMERATIONS))
# fmt: on


class Names(Heap):
    """The part of a run that knows names."""

    tree: Tree
    environment: Ref
    """The command's variables, a dictionary that may have others, too."""

    def _x_n(self, code: Code, env: Env) -> Any:
        return self.name(code[1], env)

    def name(self, name: str, env: Env) -> Any:
        if name in env:
            return env[name]
        module = env.get("__module__", "")
        if name in self.heap.get(module, ()):
            return self.heap[module][name]
        found = self.tree.find(module, name)
        if isinstance(found, Constant):
            return self.value(found.code, {"__module__": found.module})
        if isinstance(found, (Function, Class)):
            return Named(found.name, module=found.module)
        known = name in _OWN or (isinstance(found, Outside) and name.islower())
        return Named(name) if known else UNKNOWN

    def class_of(self, value: Any) -> Class | None:
        """The class of the tree that a value names."""
        if not isinstance(value, Named) or not value.module:
            return None
        found = self.tree.find(value.module, value.name)
        return found if isinstance(found, Class) else None

    def lineage(self, of: Class) -> list[Class]:
        """A class and those of its bases that the tree defines, the class last."""
        bases = (self.tree.find(of.module, base) for base in of.bases)
        return [*(one for base in bases if isinstance(base, Class) for one in self.lineage(base)), of]

    def members(self, of: Class) -> tuple[str, ...] | None:
        """An enumeration's members; None for any other class."""
        line = self.lineage(of)
        if not any(base in _ENUMERATIONS for one in line for base in one.bases):
            return None
        return tuple(name for one in line for name in (*one.constants, *one.fields) if not name.startswith("_"))

    def member(self, of: Class, name: str, env: Env) -> Any:
        """An attribute of a class: a member of an enumeration, or a constant."""
        for one in reversed(self.lineage(of)):
            if name not in one.constants and name not in one.fields:
                continue
            code = one.constants.get(name, one.fields.get(name, ["?"]))
            text = any(base in _TEXT_ENUMERATIONS for each in self.lineage(of) for base in each.bases)
            if self.members(of) is not None and not text:
                return Named(name, f"{of.module}.{of.name}")
            inner = {"__module__": one.module} | dict.fromkeys(one.constants, UNKNOWN)
            inner |= {key: self.value(part, inner) for key, part in one.constants.items() if key != name}
            return self.value(code, inner)
        return UNKNOWN

    def _x_a(self, code: Code, env: Env) -> Any:
        if code == ["a", ["n", "os"], "environ"]:
            return self.environment
        owner = self.value(code[1], env)
        if isinstance(owner, Ref):
            return self.heap[owner.id].get(code[2], UNKNOWN)
        if code[1] == ["n", "torch"] and "torch" not in env and code[2] in _DTYPES:
            return Named(code[2])
        if (of := self.class_of(owner)) is not None:
            if code[2] == "__members__" and (names := self.members(of)) is not None:
                return names
            return self.member(of, code[2], env)
        # AttnBackend.local of an unknown AttnBackend: a name that no variable has, with a capital
        if owner is UNKNOWN and code[1][0] == "n" and code[1][1][:1].isupper() and code[1][1] not in env:
            return Named(code[2])
        if isinstance(owner, Named) and code[2] in ("name", "value"):
            return owner.name
        return UNKNOWN
