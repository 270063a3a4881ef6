"""The modules of a model that compute products: what each is called, and which spec holds for it now.

A patched model calls `name` once it is built. Each of its linear layers and core attentions gets a `quant_layer`,
which the patched statements hand to the products; nothing is looked for on anybody's stack. Names are those of
named_modules() with the layers counted over all pipeline stages.
"""

from __future__ import annotations

import re
import sys
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from quantctl.errors import QuantctlError
from quantctl.kernels.measure import coverage, hits, steps
from quantctl.spec import SITES, Module, Resolved, literal, resolve
from quantctl.spec.literals import SEPARATOR, Rule
from quantctl.spec.names import of_all_experts
from quantctl.spec.resolution import schedule_of, unmatched

VARIABLES = "custom_quant_type_"
"""What the selectors of a tree are called, in front of their sites."""


@dataclass(frozen=True)
class Named:
    """A module's name in its model, and what its selectors say of it, by site: a literal without layers and names."""

    name: str
    literals: Mapping[str, str] = field(default_factory=dict)

    @property
    def site(self) -> str:
        """Its site, of a linear layer."""
        return next(iter(self.literals))


_modules: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
"""By name, those whose spec is not always the same one, and may be another in evaluation."""


def spec_now(text: str, site: str, layer: Named | str | None = None) -> str:
    """The spec, without rules, that holds for this product of `site`; text: the selector's value.

    Raises QuantctlError for an unknown spec, and for rules of layers or modules where the module has no name.
    """
    said = layer.literals.get(site, text) if isinstance(layer, Named) else text
    if SEPARATOR not in said:
        return said
    schedule = schedule_of(said, site)
    _refuse_recording(said, site)
    training = True
    if schedule.training != schedule.evaluation and isinstance(layer, Named):
        module = _modules.get(layer.name)
        training = module is None or module.training
    return schedule.at(steps.current(), training=training)


def _refuse_recording(said: str, site: str) -> None:
    """Raises QuantctlError where the products of this step are recorded to be run again in other steps."""
    recorders = (
        ("torch.compile", torch.compiler.is_compiling()),
        ("a CUDA graph", torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()),
    )
    for name, records in recorders:
        if records:
            raise QuantctlError(
                f"{site}={said}: {name} would go on with what holds in this step",
                f"leave the phases out of the selector, or train without {name}",
            )


def _numbered(model: Any) -> Iterator[tuple[Module, Any, tuple[str, ...]]]:
    """Each module that computes products, as it is called and numbered in the whole model, and its sites."""
    numbers = {name: module.layer_number for name, module in model.named_modules() if _is_layer(name, module)}
    for name, module, sites in coverage.places_in(model):
        outer = next((layer for layer in numbers if name.startswith(f"{layer}.")), None)
        if outer is None:
            yield Module(name, None), module, sites
            continue
        head, _, _ = outer.rpartition(".")
        yield Module(f"{head}.{numbers[outer] - 1}{name[len(outer) :]}", numbers[outer]), module, sites


def _is_layer(name: str, module: Any) -> bool:
    """Whether it is one of the model's layers, those of multi-token prediction not counted."""
    is_one = re.fullmatch(r"(?:\w+\.)*layers\.\d+", name) is not None
    return is_one and not name.startswith("mtp.") and isinstance(getattr(module, "layer_number", None), int)


def name(model: Any, quant_types: Mapping[str, str]) -> None:
    """Give the modules of a model that has just been built their names, and what the tree's selectors say of each.

    model: a language model of Megatron with its `config`, or one pipeline stage's part of it. quant_types: the
    selectors' variables and values. Raises QuantctlError for a literal that is none, a layer that the model does not
    have, a rule that fits no module of any stage, and layers of Transformer Engine that no selector can rule.
    """
    values = {variable.removeprefix(VARIABLES): value for variable, value in quant_types.items()}
    found = list(_numbered(model))
    resolved = {
        site: resolve(
            values[site],
            site,
            [module for module, _, sites in found if site in sites],
            layers=model.config.num_layers,
            steps=steps.length(),
        )
        for site in SITES
        if site in values and not literal(values[site], site).is_none
    }
    _stages.judge(resolved)
    literals = {
        module.name: {site: str(resolved[site].schedules[module.name]) for site in sites if site in resolved}
        for module, _, sites in found
    }
    if coverage.EXTENSION in sys.modules:
        from quantctl.kernels.te.refusals import refuse_model

        refuse_model(model, values, {module.name: layer for module, layer, _ in found}, literals)
    folded = _folded(literals)
    for module, layer, _ in found:
        if said := literals[module.name]:
            layer.quant_layer = Named(folded[module.name], said)
            hits.expect(folded[module.name], said)
            if any(SEPARATOR in text for text in said.values()):
                _modules[folded[module.name]] = layer


def _folded(literals: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The name under which each module is counted: the experts of a layer together, where one thing is said of all."""
    together: dict[str, list[Mapping[str, str]]] = {}
    for module, said in literals.items():
        together.setdefault(of_all_experts(module), []).append(said)
    alike = {name for name, said in together.items() if all(one == said[0] for one in said)}
    return {module: starred if (starred := of_all_experts(module)) in alike else module for module in literals}


class _Stages:
    """Which rules have fitted a module so far, in the parts of a model that this process builds."""

    def __init__(self) -> None:
        self.parts = 0
        self.fitted: dict[tuple[str, Rule], bool] = {}
        self.names: set[str] = set()

    def judge(self, resolved: Mapping[str, Resolved]) -> None:
        """Once a process has built its last part, ask the other stages and refuse a rule that fits nothing."""
        self.parts += 1
        for site, found in resolved.items():
            self.names.update(Module(name, None).within for name in found.schedules)
            for rule, fits in zip(found.literal.rules, found.matched, strict=True):
                self.fitted[site, rule] = self.fitted.get((site, rule), False) or fits
        if self.parts < _parts_of_a_stage():
            return
        fitted, names = list(self.fitted.items()), self.names
        self.__init__()  # type: ignore[misc]
        everywhere = _gathered([fits for _, fits in fitted])
        for number, ((_, rule), _) in enumerate(fitted):
            if not any(stage[number] for stage in everywhere):
                raise unmatched(rule, names)


_stages = _Stages()


def _parallel_state() -> Any:
    state = sys.modules.get("megatron.core.parallel_state")
    return state if state is not None and state.model_parallel_is_initialized() else None


def _parts_of_a_stage() -> int:
    state = _parallel_state()
    return (state and state.get_virtual_pipeline_model_parallel_world_size()) or 1


def _gathered(mine: list[bool]) -> list[list[bool]]:
    """What every pipeline stage has found."""
    state = _parallel_state()
    if not mine or state is None or state.get_pipeline_model_parallel_world_size() == 1:
        return [mine]
    found: list[Any] = [None] * state.get_pipeline_model_parallel_world_size()
    torch.distributed.all_gather_object(found, mine, group=state.get_pipeline_model_parallel_group())
    return found
