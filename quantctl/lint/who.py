"""Who decides the number formats of a command's matrix products, and which formats they get."""

from __future__ import annotations

from quantctl.lint.case import LEGACY, Case

LAYERS = ("linear", "qk", "pv")
"""Selectors that act in the local layers only; the output layer is Megatron's own in both implementations."""

# flag's stem -> the recipe that is a block format of its own
_BLOCK_RECIPES = {"fp8": "mxfp8", "fp4": "nvfp4"}
# kind -> the formats that are of it
_KINDS = {"fp8": {"mxfp8", "hifp8"}, "fp4": {"mxfp4", "nvfp4"}}


def te_recipe(case: Case) -> str | None:
    """The low-precision recipe that Transformer Engine's layers are asked for, e.g. `fp8 hybrid, delayed`."""
    for kind in _BLOCK_RECIPES:
        if case.has(f"--{kind}-format"):
            value = case.text(f"--{kind}-format") or "..."
            return f"{kind} {value}, {case.text(f'--{kind}-recipe') or 'a recipe that is not known'}"
    return None


def who_rules(case: Case) -> tuple[str, str]:
    """`selectors`, `transformer_engine`, `nobody` (the training dtype) or `unknown`; and a sentence that says it."""
    specs = ", ".join(f"{role}={spec}" for role, spec in case.quantized.items())
    if case.local is None:
        return "unknown", f"the layers' implementation is not known from the command ({case.layers_by} decides)"
    if case.local:
        if case.selectors is None:
            return "selectors", "the tree's selectors rule; what they say is not known here"
        if specs:
            return "selectors", f"the selectors rule: {specs}"
        return "nobody", "every product in the training dtype"
    by = case.layers_by
    layers = f"the {case.implementation} layers" + (f" of {by}" if by != "--transformer-impl" else "")
    if case.implementation == LEGACY:
        # their linear layers are core's, their attention is their own
        runs = ", ".join(f"{role}={spec}" for role, spec in case.quantized.items() if role == "linear")
        lost = ", ".join(f"{role}={spec}" for role, spec in case.quantized.items() if role in ("qk", "pv"))
        said = f"the selectors rule: {runs}" if runs else "compute in the training dtype"
        if case.selectors is None:
            said = "what the tree's selectors say is not known here"
        never = (
            f"; the selectors ({lost}) are never executed: legacy models have an attention of their own" if lost else ""
        )
        return ("selectors" if runs else "nobody"), f"{layers}; {said}{never}"
    lost = f"; the selectors ({specs}) are never executed" if any(role in case.quantized for role in LAYERS) else ""
    if recipe := te_recipe(case):
        return "transformer_engine", f"{layers} rule with their own recipe: {recipe}{lost}"
    return "nobody", f"{layers} compute in the training dtype{lost}"


def delivered(case: Case) -> set[str] | None:
    """The formats that some product gets, with the kinds that they are of (`fp8`, `fp4`); None if unknown."""
    if case.local is None or ((case.local or case.implementation == LEGACY) and case.selectors is None):
        return None
    if case.implementation == LEGACY:
        found = set(case.formats.get("linear", ()))
        return found | {kind for kind, members in _KINDS.items() if found & members}
    if case.local:
        found = set[str]().union(*case.formats.values())
        return found | {kind for kind, members in _KINDS.items() if found & members}
    found = set()
    for kind, block in _BLOCK_RECIPES.items():
        given = case.has(f"--{kind}-format")
        if given is None:
            return None
        if given:
            recipe = case.text(f"--{kind}-recipe")
            # a recipe that nobody knows may be the block format
            found |= {kind} | ({block} if recipe in (None, block) else set())
    return found
