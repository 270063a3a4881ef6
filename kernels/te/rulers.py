"""Who quantizes which module of a model, where Transformer Engine's own recipe and a selector are both in it.

Both may be: of one module only one of them (refusals.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantctl.kernels.products.stock_code import say_once
from quantctl.spec import NONE
from quantctl.spec.names import fold
from quantctl.spec.resolution import schedule_of


def own_recipe(config: Any) -> str | None:
    """The flags by which Transformer Engine's recipe is asked for, in all layers; None if it is not."""
    for kind in ("fp8", "fp4"):
        if said := getattr(config, kind, None):
            recipe = getattr(config, f"{kind}_recipe", None)
            return f"--{kind}-format {said}" + (f" --{kind}-recipe {recipe}" if recipe else "")
    return None


def by_precision_file(module: Any) -> bool:
    """Whether Megatron's per-module precision file speaks of the module."""
    return getattr(module, "te_quant_params", None) is not None


def asked(literals: Mapping[str, str]) -> bool:
    """Whether a selector asks for a format in a module, at any step. literals: what they say of it, by site."""
    return any(schedule_of(said, site).specs != {NONE} for site, said in literals.items())


def say(config: Any, modules: Mapping[str, Any], literals: Mapping[str, Mapping[str, str]]) -> None:
    """On stderr, once a process: the modules of each. modules: Transformer Engine's linear layers, by name; literals:
    what selectors say of each module, by name and site.
    """
    recipe = own_recipe(config)
    others = {
        "--te-precision-config-file": [name for name, module in modules.items() if by_precision_file(module)],
        recipe or "": [name for name, module in modules.items() if recipe and not asked(literals[name])],
    }
    for who, names in others.items():
        if names:
            say_once(f"Transformer Engine's own recipe ({who}) rules {', '.join(fold(names))}")
    if any(others.values()):
        ruled = [name for name, said in literals.items() if asked(said)]
        say_once(f"selectors rule {', '.join(fold(ruled)) or 'nothing'}")
