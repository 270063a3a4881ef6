"""Calls in a followed program: Python's own functions, the tree's, and objects that are made."""

from __future__ import annotations

from typing import Any

from quantctl.lint.start.expressions import Env
from quantctl.lint.start.heap import CLASS, LOST
from quantctl.lint.start.methods import MATCH, PATTERN, Methods
from quantctl.lint.start.source import Class, Function, Tree
from quantctl.lint.start.steps import Steps
from quantctl.lint.start.syntax import Code, written
from quantctl.lint.start.values import EXITS, UNKNOWN, Lambda, Named, Ref, Stop

_AT_THE_START = {"is_grad_enabled": True}
"""What PyTorch says of itself before anybody changed it."""
_NUMBERS = ("sqrt", "ceil", "floor", "prod")


class Program(Methods, Steps):
    """One run through a tree's functions."""

    def __init__(self, tree: Tree, world_size: int | None, environment: dict[str, Any]) -> None:
        super().__init__(tree, world_size)
        self.environment = self.new({LOST: UNKNOWN} | environment)

    def _x_call(self, code: Code, env: Env) -> Any:
        function = code[1]
        words = [self.value(word, env) for word in code[2]]
        named = {name: self.value(word, env) for name, word in code[3].items()}
        if function[0] == "n":
            return self._named_call(function[1], words, named, env)
        if function[0] == "a":
            return self._method(function, words, named, env)
        if isinstance(called := self.value(function, env), Lambda):
            return self.apply(called, words)
        return self._unseen([*words, *named.values()])

    def apply(self, function: Lambda, words: list[Any]) -> Any:
        """Call a function of one expression."""
        return self.value(function.body, function.env | dict(zip(function.names, words, strict=False)))

    def _unseen(self, words: list[Any]) -> Any:
        """A call that is not followed: it may have changed anything in the objects that it got."""
        for word in words:
            self.lose(word)
        return UNKNOWN

    def _named_call(self, name: str, words: list[Any], named: dict[str, Any], env: Env) -> Any:
        given = self.name(name, env)
        if isinstance(given, Lambda):
            return self.apply(given, words)
        if isinstance(given, Named) and given.module:
            return self._of_tree(given, words, named)
        if name in env and not isinstance(given, Named):
            return self._unseen([*words, *named.values()])
        name = given.name if isinstance(given, Named) else name
        if name in ("getattr", "hasattr", "setattr"):
            return self._attribute(name, words)
        if name == "isinstance" and len(words) == 2:
            return self.is_instance(*words)
        if name == "exit":
            raise Stop(EXITS)
        if name == "fields" and words:
            return self._fields(words[0])
        if name == "deepcopy" and len(words) == 1:
            return self._copied(words[0])
        if name == "eval" and len(words) == 1 and isinstance(words[0], str):
            return self.value(written(words[0]), {})
        if name in ("type", "print", "repr", "id"):
            return UNKNOWN
        found = self.built_in(name, words) if not named else UNKNOWN
        return self._unseen([*words, *named.values()]) if found is UNKNOWN else found

    def _of_tree(self, given: Named, words: list[Any], named: dict[str, Any]) -> Any:
        found = self.tree.find(given.module, given.name)
        if isinstance(found, Class):
            return self.build(found, words, named)
        if isinstance(found, Function) and "contextmanager" not in found.decorators:
            return self.run(found, words, named)
        self.lose_shared()
        return self._unseen([*words, *named.values()])

    def _copied(self, value: Any) -> Any:
        if self.is_list(value):
            items = self.plain(value, False)
            return self.new_list(tuple(map(self._copied, items)) if isinstance(items, tuple) else items)
        return self.new(dict(self.heap[value.id])) if isinstance(value, Ref) else value

    def _attribute(self, name: str, words: list[Any]) -> Any:
        if len(words) < 2 or not isinstance(words[0], Ref) or not isinstance(words[1], str):
            if name == "getattr" and len(words) > 1 and isinstance(words[0], Named) and words[1] == "name":
                return words[0].name
            return UNKNOWN
        fields = self.heap[words[0].id]
        if name == "setattr":
            fields[words[1]] = words[2] if len(words) > 2 else UNKNOWN
            return None
        if words[1] not in fields and LOST in fields:
            return UNKNOWN
        if name == "hasattr":
            return words[1] in fields
        return fields[words[1]] if words[1] in fields else words[2] if len(words) > 2 else UNKNOWN

    # ---- methods ----

    def _method(self, function: Code, words: list[Any], named: dict[str, Any], env: Env) -> Any:
        owner_code, name = function[1], function[2]
        if owner_code[0] == "call" and owner_code[1] == ["n", "super"]:
            return self._parent(name, env)
        if function == ["a", ["n", "os"], "getenv"]:
            return self.of_dictionary(self.environment, "get", words)
        if name == "get_world_size" and not words:
            return self.world_size
        owner = self.value(owner_code, env)
        if owner is UNKNOWN and owner_code[0] == "n":
            return self._of_module(owner_code[1], name, words, named)
        if isinstance(owner, str):
            return self.of_text(owner, name, words)
        if isinstance(owner, Named):
            return self._of_class(owner, name, words, named)
        if not isinstance(owner, Ref):
            return self._unseen([*words, *named.values()])
        if self.is_list(owner):
            return self.of_list(owner, name, words)
        return self._of_object(owner, name, words, named)

    def _of_module(self, module: str, name: str, words: list[Any], named: dict[str, Any]) -> Any:
        """`math.ceil(...)`, `re.sub(...)`, `dataclasses.fields(...)`."""
        if name == "fields" and words:
            return self._fields(words[0])
        if name == "deepcopy" and len(words) == 1:
            return self._copied(words[0])
        if module == "torch" and name in _AT_THE_START:
            return _AT_THE_START[name]
        if module == "re" and name in ("sub", "compile") and not named:
            return self.substituted(words) if name == "sub" else self.compiled(words)
        found = self.built_in(name, words) if name in _NUMBERS and not named else UNKNOWN
        return self._unseen([*words, *named.values()]) if found is UNKNOWN else found

    def _of_class(self, owner: Named, name: str, words: list[Any], named: dict[str, Any]) -> Any:
        """A static or class method."""
        of = self.class_of(owner)
        for one in reversed(self.lineage(of) if of is not None else []):
            if name in one.methods:
                method = one.methods[name]
                first = [owner] if "classmethod" in method.decorators else []
                return self.run(method, [*first, *words], named)
        return self._unseen([*words, *named.values()])

    def _of_object(self, owner: Ref, name: str, words: list[Any], named: dict[str, Any]) -> Any:
        fields = self.heap[owner.id]
        if CLASS not in fields:
            return self.of_dictionary(owner, name, words)
        of = self.class_of(fields[CLASS])
        if of is not None:
            for one in reversed(self.lineage(of)):
                if name in one.methods:
                    return self.run(one.methods[name], [owner, *words], named | {"__of__": self._name_of(one)})
        if fields[CLASS] == PATTERN:
            return self.of_pattern(owner, name, words)
        if fields[CLASS] == MATCH and name == "group":
            return self.looked_up(fields["groups"], words[0] if words else 0)
        return self._unseen([owner, *words, *named.values()])

    # ---- objects ----

    def _name_of(self, of: Class) -> Named:
        return Named(of.name, module=of.module)

    def _fields(self, kind: Any) -> Any:
        of = self.class_of(self.heap[kind.id].get(CLASS) if isinstance(kind, Ref) else kind)
        names = dict.fromkeys(field for one in self.lineage(of) for field in one.fields) if of is not None else {}
        return tuple(map(Named, names)) or UNKNOWN

    def build(self, of: Class, words: list[Any], named: dict[str, Any]) -> Any:
        """An instance, with its __init__ or __post_init__ followed; UNKNOWN of a class that is not all the tree's."""
        line = self.lineage(of)
        methods = {name: (method, one) for one in line for name, method in one.methods.items()}
        outside = any(base not in ("object", "ABC") and base not in {one.name for one in line}
                      for one in line for base in one.bases)  # fmt: skip
        if outside or self.members(of) is not None:
            return self._unseen([*words, *named.values()])
        values: dict[Any, Any] = {CLASS: self._name_of(of)}
        if "__init__" in methods:
            made = self.new(values)
            method, one = methods["__init__"]
            self.run(method, [made, *words], named | {"__of__": self._name_of(one)})
            return made
        for one in line:
            for name, default in one.fields.items():
                values[name] = self.value(default, {"__module__": one.module})
        given = named.pop("**", None)
        if isinstance(given, Ref):
            values |= {key: value for key, value in self.heap[given.id].items() if key != CLASS}
        elif given is not None:
            values |= {name: UNKNOWN for name in values if name != CLASS}
        values |= dict(zip([name for name in values if name != CLASS], words, strict=False)) | named
        made = self.new(values)
        if "__post_init__" in methods:
            method, one = methods["__post_init__"]
            self.run(method, [made], {"__of__": self._name_of(one)})
        return made

    def _parent(self, name: str, env: Env) -> Any:
        """super().__post_init__() and the like, of the class whose method is being followed."""
        here, owner = self.class_of(env.get("__of__")), env.get("self")
        if here is None or not isinstance(owner, Ref):
            return UNKNOWN
        for one in reversed(self.lineage(here)[:-1]):
            if name in one.methods:
                return self.run(one.methods[name], [owner], {"__of__": self._name_of(one)})
        return None
