"""Which layer of a torch model a module lies in, so that a literal's rules can speak of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import nn

from quantctl.errors import QuantctlError
from quantctl.spec.conditions import Layers, Phase
from quantctl.spec.literals import Literal
from quantctl.spec.resolution import Module, resolve, unmatched


def stacks(model: nn.Module, names: Iterable[str]) -> dict[str, int]:
    """The lists of layers in a model: names of nn.ModuleLists that lie in no other one, and how long they are.

    names: the linear layers'; a list without any is none of layers.
    """
    found: dict[str, int] = {}
    for name, module in model.named_modules():
        inside = any(not other or name.startswith(f"{other}.") for other in found)
        if isinstance(module, nn.ModuleList) and not inside:
            prefix = f"{name}." if name else ""
            if any(re.match(rf"{re.escape(prefix)}\d+(\.|$)", one) for one in names):
                found[name] = len(module)
    return found


def specs_of(said: Literal, model: nn.Module, names: Iterable[str]) -> Mapping[str, str]:
    """The spec of each linear layer of a site by its name.

    Layers are those of the model's one nn.ModuleList, from 1. Raises QuantctlError for a rule that fits none of them,
    for layers where it has no list of them or several, and for phases: a model knows no steps.
    """
    names = list(names)
    lists = stacks(model, names)
    for rule in said.rules:
        for condition in rule.conditions:
            if isinstance(condition, Phase):
                raise QuantctlError(f"`{rule}`: a torch model knows no steps", "convert it anew when the time comes")
            if isinstance(condition, Layers) and len(lists) != 1:
                has = f"several lists of layers: {', '.join(lists)}" if lists else "no nn.ModuleList of layers"
                raise QuantctlError(f"`{rule}`: the model has {has}", "name its modules: `encoder.layers.0.*: none`")
    ((stack, layers),) = lists.items() if len(lists) == 1 else [("", 0)]
    modules = [Module(name, _number(name, stack) if layers else None) for name in names]
    found = resolve(str(said), said.site, modules, layers=layers or 1)
    for rule, fits in zip(said.rules, found.matched, strict=True):
        if not fits:
            raise unmatched(rule, names)
    return {name: schedule.at(1) for name, schedule in found.schedules.items()}


def _number(name: str, stack: str) -> int | None:
    inside = re.match(rf"{re.escape(stack)}\.?(\d+)(?:\.|$)" if stack else r"(\d+)(?:\.|$)", name)
    return int(inside[1]) + 1 if inside else None
