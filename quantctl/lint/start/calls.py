"""Calls in a table of checks: Python's own functions, the table's, and configurations that are built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantctl.lint.start.expressions import Code, Env
from quantctl.lint.start.steps import Steps
from quantctl.lint.start.values import EXITS, UNKNOWN, Lambda, Named, Ref, Stop, built_in, instance, of_text


class Program(Steps):
    """One run through a table's functions."""

    def _x_call(self, code: Code, env: Env) -> Any:
        return call(self, code, env)


def call(program: Program, code: Code, env: Env) -> Any:
    """The value of a call; UNKNOWN for what is not followed."""
    function = code[1]
    words = [program.value(word, env) for word in code[2]]
    named = {name: program.value(word, env) for name, word in code[3].items()}
    if function[0] == "n":
        return _by_name(program, function[1], words, named, env)
    if function[0] == "a":
        return _method(program, function, words, named, env)
    return UNKNOWN


def _by_name(program: Program, name: str, words: list[Any], named: dict[str, Any], env: Env) -> Any:
    if isinstance(env.get(name), Named):
        name = env[name].name
    elif isinstance(given := env.get(name), Lambda):
        return program.value(given.body, env | dict(zip(given.names, words, strict=False)))
    elif name in env:
        return UNKNOWN
    if name in ("getattr", "hasattr", "setattr"):
        return _attribute(program, name, words)
    if name == "isinstance" and len(words) == 2:
        return instance(*words)
    if name == "exit":
        raise Stop(EXITS)
    if name == "type":
        return UNKNOWN
    if name in program.table["functions"]:
        return program.run(program.table["functions"][name], words, named)
    if name in program.table["classes"]:
        return build(program, name, words, named)
    if name == "fields" and words:
        return _fields(program, words[0])
    found = built_in(name, words)
    if found is UNKNOWN and any(isinstance(word, Ref) for word in words):
        _lose(program, words)
    return found


def _lose(program: Program, words: list[Any]) -> None:
    """A function that is not followed got an object: it may have changed anything in it, or ended the program."""
    for word in words:
        if isinstance(word, Ref):
            fields = program.heap[word.id]
            fields.update(dict.fromkeys(fields, UNKNOWN))


def _attribute(program: Program, name: str, words: list[Any]) -> Any:
    if len(words) < 2 or not isinstance(words[0], Ref) or not isinstance(words[1], str):
        return UNKNOWN
    fields = program.heap[words[0].id]
    if name == "hasattr":
        return words[1] in fields
    if name == "setattr":
        fields[words[1]] = words[2]
        return None
    return fields[words[1]] if words[1] in fields else words[2] if len(words) > 2 else UNKNOWN


def _method(program: Program, function: Code, words: list[Any], named: dict[str, Any], env: Env) -> Any:
    owner_code, name = function[1], function[2]
    if owner_code[0] == "call" and owner_code[1] == ["n", "super"]:
        return _parent(program, name, env)
    if name in ("get", "getenv") and _is_environment(function):
        return _variable(program, words)
    if name == "get_world_size" and not words:
        return program.world_size
    if name == "fields" and words:
        return _fields(program, words[0])
    if name in ("sqrt", "ceil", "floor", "prod"):
        return built_in(name, words)
    owner = program.value(owner_code, env)
    if isinstance(owner, str):
        return of_text(owner, name, words)
    if not isinstance(owner, Ref):
        return UNKNOWN
    fields = program.heap[owner.id]
    if name == "get" and words and isinstance(words[0], str):
        return fields.get(words[0], words[1] if len(words) > 1 else None)
    if name == "pop" and words and isinstance(words[0], str):
        return fields.pop(words[0], UNKNOWN)
    if name in ("keys", "items", "values"):
        return UNKNOWN
    methods = _methods(program, str(fields.get("__class__", "")))
    if name in methods:
        return program.run(methods[name], [owner, *words], named)
    if "__class__" in fields:
        _lose(program, [owner])
    return UNKNOWN


def _is_environment(function: Code) -> bool:
    return function == ["a", ["n", "os"], "getenv"] or function == ["a", ["a", ["n", "os"], "environ"], "get"]


def _variable(program: Program, words: list[Any]) -> Any:
    if program.environment is None or not words or not isinstance(words[0], str):
        return UNKNOWN
    found = program.environment.get(words[0])
    return found if found is not None else words[1] if len(words) > 1 else None


# ---- configurations ----


def _line_of(program: Program, name: str) -> list[str]:
    """A class and its bases, the class last."""
    known = program.table["classes"].get(name)
    if known is None:
        return []
    return [*(one for base in known["bases"] for one in _line_of(program, base)), name]


def _methods(program: Program, name: str) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for one in _line_of(program, name):
        found |= program.table["classes"][one]["methods"]
    return found


def _fields(program: Program, kind: Any) -> Any:
    if not isinstance(kind, Named):
        return UNKNOWN
    names = {field: None for one in _line_of(program, kind.name) for field in program.table["classes"][one]["fields"]}
    return tuple(program.new({"name": name}) for name in names) or UNKNOWN


def build(program: Program, name: str, words: list[Any], named: dict[str, Any]) -> Any:
    """An instance of a configuration class, with its __post_init__ followed."""
    values: dict[str, Any] = {"__class__": name}
    for one in _line_of(program, name):
        for field, default in program.table["classes"][one]["fields"].items():
            values[field] = program.value(default, {})
    given = named.pop("**", None)
    if isinstance(given, Ref):
        values |= {key: value for key, value in program.heap[given.id].items() if key != "__class__"}
    elif words or given is not None:
        return UNKNOWN
    values |= named
    made = program.new(values)
    if "__post_init__" in (methods := _methods(program, name)):
        program.run(methods["__post_init__"], [made], {"__of__": Named(name)})
    return made


def _parent(program: Program, name: str, env: Env) -> Any:
    """super().__post_init__() and the like, of the class whose method is being followed."""
    here = env.get("__of__")
    owner = env.get("self")
    if not isinstance(here, Named) or not isinstance(owner, Ref):
        return UNKNOWN
    for base in reversed(_line_of(program, here.name)[:-1]):
        methods = program.table["classes"][base]["methods"]
        if name in methods:
            return program.run(methods[name], [owner], {"__of__": Named(base)})
    return None
