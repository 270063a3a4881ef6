"""What a command's flags become in the trainer's `args`, and where the release's own checks stop it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from quantctl.lint.arguments import Given, is_unknown
from quantctl.lint.case import Case
from quantctl.lint.megatron_flags import Option
from quantctl.lint.program import GPT
from quantctl.lint.start import core
from quantctl.lint.start.calls import Program
from quantctl.lint.start.expressions import GaveUp
from quantctl.lint.start.heap import CLASS
from quantctl.lint.start.source import TRAINER, Class, Tree
from quantctl.lint.start.syntax import Code
from quantctl.lint.start.values import UNKNOWN, Named, Stop

# what pretrain_gpt.py hands to validate_args
_GPT_DEFAULTS = {"tokenizer_type": "GPT2BPETokenizer"}
_PLAIN = ("int", "float", "str", None)
_UTILITIES = "megatron.training.argument_utils"
_PARALLEL = "megatron.core.parallel_state"
_CONFIGS = "megatron.core.transformer.transformer_config"
Step = Callable[[], object]


@lru_cache(maxsize=4)
def tree(root: Path) -> Tree:
    """The sources of the tree at `root`, which remember what was read of them."""
    return Tree(root)


def stop(case: Case) -> tuple[str, str, int | None] | None:
    """The sentence with which the trainer ends before it trains, where (validate_args, ...) and the line; None if
    nothing says that it does."""
    # other programs are forks' own: what they hand to these checks is not known
    stock = case.command.program == GPT or case.command.stack_of_its_own
    if case.setting.root is None or not stock or case.command.foreign:
        return None
    nodes, processes = case.command.nodes, case.command.processes
    ranks = nodes * processes if nodes and processes else None
    command = case.command
    asked = (case.setting.release, command.program, command.words, ranks, frozenset(command.environment.items()))
    answers = tree(case.setting.root).answers
    if asked not in answers:  # most ways through a script come to the same words
        answers[asked] = _followed(case, tree(case.setting.root), ranks)
    return answers[asked]


def _followed(case: Case, sources: Tree, ranks: int | None) -> tuple[str, str, int | None] | None:
    environment = {name: UNKNOWN if is_unknown(text) else text for name, text in case.command.environment.items()}
    program = Program(sources, ranks, environment)
    where = "the parser"
    try:
        args = _namespace(case, program)
        for name, step in _steps(args, program, case.command.program == GPT):
            where = name
            step()
    except Stop as found:
        return str(found), found.where or where, found.line
    except (GaveUp, RecursionError):
        return None
    return None


def _steps(args: dict[str, Any], program: Program, is_gpt: bool) -> Iterator[tuple[str, Step]]:
    """What is followed, by name: the trainer's way through its checks, or megatron.core's own where there is none."""
    sources = program.tree
    validate = sources.function("validate_args", TRAINER)
    parallel = sources.function("initialize_model_parallel", _PARALLEL)
    config = sources.find(_CONFIGS, "TransformerConfig")
    if validate is None:
        if parallel is not None:
            yield parallel.name, lambda: core.follow_parallel_state(program, parallel, args)
        if isinstance(config, Class):
            yield config.name, lambda: core.follow_configuration(program, config, args)
        return
    space = program.new(args)
    named = {"defaults": program.new(dict(_GPT_DEFAULTS if is_gpt else {}))}
    yield validate.name, lambda: program.run(validate, [space], named)
    if parallel is not None and (asked := sources.parallel()) is not None:
        env = {"args": space}
        words = [program.value(word, env) for word in asked[2]]
        by_name = {name: program.value(word, env) for name, word in asked[3].items()}
        yield parallel.name, lambda: program.run(parallel, words, by_name)
    if (hand_on := sources.function("core_transformer_config_from_args", _UTILITIES, TRAINER)) is not None:
        yield hand_on.name, lambda: program.run(hand_on, [space], {})


def _namespace(case: Case, program: Program) -> dict[str, Any]:
    """The attributes of `args`: the options' defaults with what is given in their place."""
    found: dict[str, Any] = {CLASS: Named("Namespace"), "rank": UNKNOWN, "world_size": program.world_size}
    types = program.tree.types()
    for option in {option.name: option for option in case.options.values()}.values():
        if option.attribute not in found or found[option.attribute] is None:
            by = types.get(option.name)
            found[option.attribute] = UNKNOWN if case.arguments.open else _default(option, by, program)
    for one in case.arguments.given:
        if one.option is not None:
            found[one.option.attribute] = _given(one, one.option, types.get(one.name), program)
    return found


def _default(option: Option, by: Code | None, program: Program) -> Any:
    text = option.default
    if option.is_switch:
        return text == "True" if text in ("True", "False") else None if text == "None" else UNKNOWN
    if text.startswith(("[", "(")):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return UNKNOWN
        return program.new_list(tuple(value)) if isinstance(value, list) else value
    if option.type not in _PLAIN:
        return None if text == "None" else _typed(option, text, by, program)
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


def _given(one: Given, option: Option, by: Code | None, program: Program) -> Any:
    if option.is_switch:
        if option.name == "--no-" + option.attribute.replace("_", "-"):
            return False
        return {"False": True, "None": True, "True": False}.get(option.default, UNKNOWN)
    if any(is_unknown(value) for value in one.values) or not one.complete:
        return UNKNOWN
    values = tuple(_typed(option, value, by, program) for value in one.values)
    if option.nargs in (1, "?"):
        return values[0] if values else UNKNOWN
    return program.new_list(values)


def _typed(option: Option, text: str, by: Code | None, program: Program) -> Any:
    """A value as the parser reads it. Raises Stop for what its function does not take."""
    if option.type not in _PLAIN:
        if by is None:
            return Named(text) if option.choices else UNKNOWN
        return program.value(["call", by, [["c", text]], {}], {"__module__": TRAINER})
    try:
        return int(text) if option.type == "int" else float(text) if option.type == "float" else text
    except ValueError:
        return UNKNOWN
