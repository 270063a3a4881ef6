"""What a literal says for each module of a model: its spec, from which step on, in training and in evaluation.

>>> found = resolve("mxfp8; layers 2..: none", "linear", [Module("layers.0.fc", 1), Module("layers.1.fc", 2)], layers=2)
>>> [str(schedule) for schedule in found.schedules.values()]
['mxfp8', 'none']
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

from quantctl.errors import QuantctlError, near
from quantctl.spec.conditions import WORDS, Layers, Module, Named
from quantctl.spec.formats import SEPARATOR
from quantctl.spec.literals import Literal, Rule, literal


@dataclass(frozen=True)
class Schedule:
    """Canonical specs, and the step from which each holds; the first from 1 on."""

    training: tuple[tuple[int, str], ...]
    evaluation: tuple[tuple[int, str], ...]

    def at(self, step: int, *, training: bool = True) -> str:
        """The spec that holds in the forward and backward of a step, counted from 1."""
        said = self.training if training else self.evaluation
        return next(spec for begin, spec in reversed(said) if begin <= max(step, 1))

    @property
    def specs(self) -> frozenset[str]:
        """All that a training can count."""
        return frozenset(spec for _, spec in chain(self.training, self.evaluation))

    @property
    def is_plain(self) -> bool:
        """Whether it is one spec, always."""
        return len(self.training) == 1 and self.training == self.evaluation

    def __str__(self) -> str:
        """As a literal that says the same of one module: `mxfp8; from 801: none`."""
        rules = [spec if begin == 1 else f"from {begin}: {spec}" for begin, spec in self.training]
        if self.evaluation != self.training:
            rules += [
                f"evaluation: {spec}" if begin == 1 else f"from {begin} evaluation: {spec}"
                for begin, spec in self.evaluation
            ]
        return f"{SEPARATOR} ".join(rules)


@dataclass(frozen=True)
class Resolved:
    """A literal in a model: what each module does, by name, and which rules said something of one."""

    literal: Literal
    schedules: Mapping[str, Schedule]
    matched: tuple[bool, ...]
    """By rule: whether its conditions fit a module here; another pipeline stage may have those of the others."""


def _fits(rule: Rule, module: Module, layers: int) -> bool:
    return all(one.holds(module, layers) for one in rule.conditions if isinstance(one, Layers | Named))


def _schedule(
    said: Literal, rules: Sequence[Rule], steps: int | None, *, training: bool
) -> tuple[tuple[int, str], ...]:
    rules = [rule for rule in rules if training is False or all(one.word != "evaluation" for one in rule.phases)]
    spans = [[phase.steps(steps) for phase in rule.phases] for rule in rules]
    begins = sorted({1, *(edge for span in chain(*spans) for edge in (span.start, span.stop) if 1 < edge < 2**62)})
    found: list[tuple[int, str]] = []
    for begin in begins:
        spec = said.base
        for rule, during in zip(rules, spans, strict=True):
            if all(begin in span for span in during):
                spec = rule.over(spec, said.site)
        if not found or found[-1][1] != spec:
            found.append((begin, spec))
    return tuple(found)


def resolve(text: str, site: str, modules: Iterable[Module], *, layers: int, steps: int | None = None) -> Resolved:
    """The schedule of each module of `site` in a model of `layers` layers, trained for `steps` steps.

    Modules of one pipeline stage may be given alone: `layers` are those of the whole model. Raises QuantctlError for a
    literal that is none, a layer that the model does not have, and a phase that never comes.
    """
    said = literal(text, site)
    for rule in said.rules:
        _check(rule, layers, steps)
    schedules, matched = {}, [False] * len(said.rules)
    known: dict[tuple[bool, ...], Schedule] = {}
    for module in modules:
        fitting = tuple(_fits(rule, module, layers) for rule in said.rules)
        matched = [before or now for before, now in zip(matched, fitting, strict=True)]
        if fitting not in known:
            rules = [rule for rule, fits in zip(said.rules, fitting, strict=True) if fits]
            known[fitting] = Schedule(
                _schedule(said, rules, steps, training=True), _schedule(said, rules, steps, training=False)
            )
        schedules[module.name] = known[fitting]
    return Resolved(said, schedules, tuple(matched))


def _check(rule: Rule, layers: int, steps: int | None) -> None:
    for condition in rule.conditions:
        if isinstance(condition, Layers):
            for one in condition.ranges:
                if one.beyond(layers) or not one.numbers(layers):
                    raise QuantctlError(
                        f"`{rule}`: `layers {one}` of a model that has {layers}", "name layers that it has, from 1"
                    )
    if steps is None or not rule.phases:
        return
    during = range(1, steps + 1)
    for phase in rule.phases:
        part = phase.steps(steps)
        during = range(max(during.start, part.start), min(during.stop, part.stop))
    if not during:
        raise QuantctlError(f"`{rule}` never holds in a training of {steps} steps", "name a step that comes")


def unmatched(rule: Rule, names: Iterable[str]) -> QuantctlError:
    """The error for a rule that fits no module of a whole model, whose modules' names within their layers are given."""
    wanted = next((one.pattern for one in rule.conditions if isinstance(one, Named)), "")
    parts = {*names} | {part for name in names for part in name.split(".")} | {*WORDS}
    meant = near(wanted, sorted(parts - {wanted})) if wanted else []
    some = sorted({name.rpartition(".")[2] for name in names})[:8]
    hint = f"did you mean {', '.join(meant)}? " if meant else ""
    return QuantctlError(
        f"`{rule}` fits no module of this model",
        f"{hint}modules are called {', '.join(some)}" if some else hint or None,
    )


@lru_cache(maxsize=1024)
def schedule_of(text: str, site: str) -> Schedule:
    """The schedule that a literal without layers and names says; what `str` of a Schedule gives."""
    said = literal(text, site)
    for rule in said.rules:
        if len(rule.phases) != len(rule.conditions):
            raise QuantctlError(
                f"{site}={text}: `{rule}` speaks of layers or modules, and this one does not know which it is",
                "patch the tree anew (quantctl restore, then set), or take a model whose modules are named: GPTModel's",
            )
    return Schedule(_schedule(said, said.rules, None, training=True), _schedule(said, said.rules, None, training=False))
