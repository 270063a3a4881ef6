"""What a command's flags become in the trainer's `args`, and where the release's own checks stop it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from quantctl.lint.arguments import Given, is_unknown
from quantctl.lint.case import Case
from quantctl.lint.megatron_flags import Option
from quantctl.lint.program import GPT
from quantctl.lint.start import core, source
from quantctl.lint.start.calls import Program
from quantctl.lint.start.expressions import GaveUp
from quantctl.lint.start.values import UNKNOWN, Stop

# what pretrain_gpt.py hands to validate_args
_GPT_DEFAULTS = {"tokenizer_type": "GPT2BPETokenizer"}
_PLAIN = ("int", "float", "str", None)


Step = Callable[[], object]


@lru_cache(maxsize=4)
def table(root: Path | None) -> Mapping[str, Any] | None:
    """The checks of the tree at `root`; None where there is none."""
    return None if root is None else source.read(root)


def stop(case: Case) -> tuple[str, str, int | None] | None:
    """The sentence with which the trainer ends before it trains, where (validate_args, ...) and the line; None if
    nothing says that it does."""
    checks = table(case.setting.root)
    # other programs are forks' own: what they hand to these checks is not known
    stock = case.command.program == GPT or case.command.stack_of_its_own
    if checks is None or not stock or case.command.foreign:
        return None
    nodes, processes = case.command.nodes, case.command.processes
    program = Program(checks, None, nodes * processes if nodes and processes else None)
    program.environment = _Environment(case)
    where = ""
    try:
        args = _namespace(case, program)
        for name, step in _steps(checks, args, program, case.command.program == GPT):
            where = name
            step()
    except Stop as found:
        return (str(found), where, program.line) if program.sure else None
    except (GaveUp, RecursionError):
        return None
    return None


def _steps(
    checks: Mapping[str, Any], args: dict[str, Any], program: Program, is_gpt: bool
) -> Iterator[tuple[str, Step]]:
    """What is followed, by name: the trainer's way through its checks, or megatron.core's own where there is none."""
    functions = checks["functions"]
    if "validate_args" not in functions:
        if core.PARALLEL in functions:
            yield core.PARALLEL, lambda: core.follow_parallel_state(program, checks, args)
        if core.CONFIG in checks["classes"]:
            yield core.CONFIG, lambda: core.follow_configuration(program, checks, args)
        return
    space = program.new(args)
    named = {"defaults": program.new(dict(_GPT_DEFAULTS if is_gpt else {}))}
    yield "validate_args", lambda: program.run(functions["validate_args"], [space], named)
    if core.PARALLEL in functions and (asked := checks["parallel"]) is not None:
        yield core.PARALLEL, lambda: _run_call(program, functions[core.PARALLEL], asked, {"args": space})
    if (name := "core_transformer_config_from_args") in functions:
        yield name, lambda: program.run(functions[name], [space], {})


def _run_call(program: Program, function: Mapping[str, Any], asked: Any, env: dict[str, Any]) -> None:
    """The function with what a call's words and names come to in `env`."""
    words = [program.value(word, env) for word in asked[2]]
    program.run(function, words, {name: program.value(word, env) for name, word in asked[3].items()})


class _Environment(dict[str, Any]):
    """The variables of a command: those that it sets are known, others only where it runs on this machine."""

    def __init__(self, case: Case) -> None:
        super().__init__(case.command.environment)
        self.here = case.setting.here

    def get(self, name: str, default: Any = None) -> Any:
        if name in self:
            return UNKNOWN if is_unknown(self[name]) else self[name]
        return UNKNOWN


def _namespace(case: Case, program: Program) -> dict[str, Any]:
    """The attributes of `args`: the options' defaults with what is given in their place."""
    found: dict[str, Any] = {"rank": UNKNOWN, "world_size": program.world_size}
    absent = UNKNOWN if case.arguments.open else None
    by_name = {option.name: option for option in case.options.values()}
    for option in by_name.values():
        if option.attribute not in found or found[option.attribute] is None:
            found[option.attribute] = absent if absent is UNKNOWN else _default(option)
    for one in case.arguments.given:
        if one.option is not None:
            found[one.option.attribute] = _given(one, one.option)
    return found


def _default(option: Option) -> Any:
    text = option.default
    if option.is_switch:
        return text == "True" if text in ("True", "False") else None if text == "None" else UNKNOWN
    if option.type not in _PLAIN:
        return None if text == "None" else text if option.choices else UNKNOWN
    if text.startswith(("[", "(")):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return UNKNOWN
        return tuple(value)
    return _number(option, text) if text != "None" else None


def _number(option: Option, text: str) -> Any:
    try:
        if option.type == "int":
            return int(text)
        if option.type == "float":
            return float(text)
    except ValueError:
        return UNKNOWN
    return {"True": True, "False": False}.get(text, text) if option.type is None and not option.choices else text


def _given(one: Given, option: Option) -> Any:
    if option.is_switch:
        if option.name == "--no-" + option.attribute.replace("_", "-"):
            return False
        return {"False": True, "True": False}.get(option.default, UNKNOWN)
    if any(is_unknown(value) for value in one.values) or not one.complete:
        return UNKNOWN
    if option.type not in _PLAIN:
        return one.values[0] if option.choices and option.nargs in (1, "?") and one.values else UNKNOWN
    values = tuple(_typed(option, value) for value in one.values)
    if option.nargs in (1, "?"):
        return values[0] if values else UNKNOWN
    return values


def _typed(option: Option, text: str) -> Any:
    try:
        return int(text) if option.type == "int" else float(text) if option.type == "float" else text
    except ValueError:
        return UNKNOWN
