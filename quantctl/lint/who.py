"""Who decides the number formats of a command's matrix products, and which formats they get."""

from __future__ import annotations

from quantctl.lint.case import LEGACY, TE, Case
from quantctl.tree.fit import IN_TE_LAYERS

LAYERS = ("linear", "qk", "pv")
"""Selectors of the layers; the output layer is Megatron's own in all of them."""
_ATTENTION = ("qk", "pv")
# flag's stem -> the recipe that is a block format of its own
_BLOCK_RECIPES = {"fp8": "mxfp8", "fp4": "nvfp4"}
# kind -> the formats that are of it
_KINDS = {"fp8": {"mxfp8", "hifp8"}, "fp4": {"mxfp4", "nvfp4"}}


def te_recipe(case: Case) -> str | None:
    """The low-precision recipe that Transformer Engine's layers are asked for, e.g. `fp8 hybrid, delayed`."""
    for kind in _BLOCK_RECIPES:
        if case.has(f"--{kind}-format"):
            value = case.text(f"--{kind}-format") or "..."
            factory = case.text(f"--{kind}-quantizer-factory")
            recipe = case.text(f"--{kind}-recipe") or "a recipe that is not known"
            return f"{kind} {value}, {recipe}" + (f" of {factory}" if factory and recipe == "custom" else "")
    return None


PRECISION_FILE = "--te-precision-config-file"
"""Names modules, and Transformer Engine's recipe for each."""


def never_run(case: Case) -> list[str]:
    """The selectors that say something and that the command's layers do not read."""
    if case.local is not False:
        return []
    if case.implementation == LEGACY:  # their linear layers are core's, their attention is their own
        return [role for role in case.quantized if role in _ATTENTION]
    if case.implementation == TE:
        return [role for role in case.quantized if role in LAYERS and _behind(case, role)]
    return [role for role in case.quantized if role in LAYERS]


def _behind(case: Case, role: str) -> bool:
    """Whether the tree has the selector, and Transformer Engine's layers of an earlier edition or a fork's, without."""
    state = case.setting.state
    there = state is not None and role in state.selectors
    return there and any(map(case.lacks, IN_TE_LAYERS[role]))


def who_rules(case: Case) -> tuple[str, str]:
    """`selectors`, `transformer_engine`, `nobody` (the training dtype), `both` (refused) or `unknown`; and a sentence
    that says it.
    """
    if case.local is None:
        return "unknown", f"the layers' implementation is not known from the command ({case.layers_by} decides)"
    by, never = case.layers_by, never_run(case)
    layers = f"the {case.implementation} layers" + (f" of {by}" if by != "--transformer-impl" else "")
    front = "" if case.local else f"{layers}; "
    ruled = {role: spec for role, spec in case.quantized.items() if role not in never}
    specs = ", ".join(f"{role}={spec}" for role, spec in ruled.items())
    lost = ", ".join(f"{role}={case.quantized[role]}" for role in never)
    lost = f"; the selectors ({lost}) are never executed" if lost else ""
    if lost and case.implementation == LEGACY:
        lost += ": legacy models have an attention of their own"
    said = f"the selectors rule: {specs}{lost}"
    if case.implementation == TE:
        if (recipe := te_recipe(case)) and "linear" in ruled:
            return "both", f"{layers} are asked for their own recipe, {recipe}, and {said}: refused at the start"
        if recipe:
            also = f"; {said}" if specs else lost
            return "transformer_engine", f"{layers} rule with their own recipe: {recipe}{also}"
        if file := case.text(PRECISION_FILE):
            front += f"{file} names those that their own recipe rules, and of the others "
    if case.selectors is None:
        return "selectors", f"{front}the tree's selectors rule; what they say is not known here"
    if specs:
        return "selectors", f"{front}{said}"
    return "nobody", f"{layers} compute in the training dtype{lost}" if front else "every product in the training dtype"


def delivered(case: Case) -> set[str] | None:
    """The formats that some product gets, with the kinds that they are of (`fp8`, `fp4`); None if unknown."""
    if case.local is None or (case.selectors is None and (case.local or te_recipe(case) is None)):
        return None  # beside a recipe of Transformer Engine's no linear product can have another one
    never = never_run(case)
    found = set[str]().union(*(formats for role, formats in case.formats.items() if role not in never))
    found |= {kind for kind, members in _KINDS.items() if found & members}
    return found if case.local or case.implementation == LEGACY else _with_recipes(case, found)


def _with_recipes(case: Case, found: set[str]) -> set[str] | None:
    """And what Transformer Engine's own recipe gives."""
    if case.has(PRECISION_FILE):
        return None
    for kind, block in _BLOCK_RECIPES.items():
        given = case.has(f"--{kind}-format")
        if given is None:
            return None
        if given:
            recipe = case.text(f"--{kind}-recipe")
            # a recipe that nobody knows may be the block format
            found |= {kind} | ({block} if recipe in (None, block) else set())
    return found
