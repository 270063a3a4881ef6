"""Flags against the model that the run is named after, and rotary embeddings that are not what they seem."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from quantctl.lint.arguments import is_unknown
from quantctl.lint.case import Case
from quantctl.lint.command import EMBEDDED
from quantctl.lint.rule import Hit, Rule, Severity

_NAMED = {
    "llama31-8b": re.compile(r"llama[-_. ]?3[._p-]?1[-_. ]?8b", re.IGNORECASE),
    "llama32-1b": re.compile(r"llama[-_. ]?3[._p-]?2[-_. ]?1b", re.IGNORECASE),
    "deepseek2_lite": re.compile(r"deepseek[-_. ]?v?2[-_. ]?lite", re.IGNORECASE),
}
_REDUCED = re.compile(r"smoke|tiny|mini|toy|debug|proxy|small|reduced|(?<![a-z])test", re.IGNORECASE)
# what a tokenizer, a sequence or a recipe decides, not the architecture
_FREE = ("--max-position-embeddings", "--vocab-size", "--make-vocab-size-divisible-by", "--init-method-std",
         "--moe-aux-loss-coeff", "--moe-layer-freq")  # fmt: skip
_SIZE = ("--num-layers",)
_TRUE_ORIGINAL = 4096
_FACTOR_PLACES = ("pretrain_gpt", "gpt_builders", "argument_utils")


@dataclass(frozen=True)
class _Identity:
    """A model's flags: with a value, and without."""

    title: str
    values: dict[str, str]
    switches: frozenset[str]


def _identities(name: str) -> list[_Identity]:
    """The true model and the reduced one of the smoke runs."""
    from quantctl.script import flags
    from quantctl.script.models import MODELS

    model = MODELS[name]
    found = []
    for architecture in (model.full, model.smoke):
        lines = flags.architecture(architecture)
        values = {line[0]: line[1] for line in lines if len(line) == 2 and line[0] not in _FREE}
        found.append(_Identity(model.title, values, frozenset(line[0] for line in lines if len(line) == 1)))
    return found


def _same(one: str, two: str) -> bool:
    try:
        return float(one) == float(two)
    except ValueError:
        return one == two


def _contradictions(case: Case, identity: _Identity) -> list[tuple[str, str]]:
    """Flags that say something else than the model has, each with a sentence."""
    found = []
    for flag, wanted in identity.values.items():
        given = case.arguments.last(flag)
        value = given.values[0] if given is not None and given.values else None
        if value is not None and not is_unknown(value) and not _same(value, wanted):
            found.append((flag, f"{flag} {value}, and {identity.title} has {wanted}"))
    heads, hidden = case.size("--num-attention-heads"), case.size("--hidden-size")
    width = identity.values.get("--kv-channels")
    if width and heads and hidden and case.has("--kv-channels") is False and hidden // heads != int(width):
        found.append(
            ("--kv-channels", f"head width {hidden // heads} (hidden / heads), and {identity.title} has {width}")
        )
    for switch in ("--untie-embeddings-and-output-weights", "--group-query-attention", "--multi-latent-attention"):
        given_switch = case.has(switch)
        if given_switch is not None and given_switch != (switch in identity.switches):
            says = "is given" if given_switch else "is missing"
            found.append((switch, f"{switch} {says}, which is not {identity.title}"))
    return found


def _model(case: Case) -> tuple[str, str] | None:
    """The registry's model that a name speaks of, and that name."""
    for name in case.names:
        for model, pattern in _NAMED.items():
            if pattern.search(name):
                return model, name
    return None


def _identity(case: Case) -> Iterator[Hit]:
    named = _model(case)
    if named is None:
        return
    found = min((_contradictions(case, identity) for identity in _identities(named[0])), key=len)
    for flag, message in found:
        proxy = flag in _SIZE or _REDUCED.search(named[1]) is not None
        yield Hit(message, (flag,), Severity.WARNING if proxy else None)


def _missing_scaling(case: Case) -> Iterator[Hit]:
    named = _model(case)
    if named is not None and named[0].startswith("llama") and case.has("--use-rope-scaling") is False:
        yield Hit(
            "--use-rope-scaling is missing: Llama 3.1 and 3.2 scale their rotary frequencies", ("--use-rope-scaling",)
        )


def _factor_dropped(case: Case) -> Iterator[Hit]:
    factor = case.number("--rope-scaling-factor")
    if not case.has("--rope-scaling-factor") or factor in (None, 8.0) or case.command.program == EMBEDDED:
        return
    lacks = [case.lacks(f"rope_scaling_factor:{place}") for place in _FACTOR_PLACES]
    if True in lacks or None in lacks:
        message = f"--rope-scaling-factor {factor:g} never reaches the model, which keeps 8"
        yield Hit(message, ("--rope-scaling-factor",), None if True in lacks else Severity.WARNING)


def _factor_alone(case: Case) -> Iterator[Hit]:
    if case.has("--rope-scaling-factor") and case.has("--use-rope-scaling") is False:
        yield Hit("--rope-scaling-factor without --use-rope-scaling changes nothing", ("--rope-scaling-factor",))


def _not_rotary(case: Case) -> Iterator[Hit]:
    given = [name for name in ("--rotary-base", "--rotary-percent", "--use-rope-scaling") if case.has(name)]
    if given and case.rope is False:
        kind = case.text("--position-embedding-type")
        yield Hit(f"{', '.join(given)} with {kind} positions changes nothing", (*given, "--position-embedding-type"))


def _yarn(case: Case) -> bool:
    """MLA's rotary embedding is YaRN's unless --rope-type says rope."""
    return bool(case.has("--multi-latent-attention")) and case.text("--rope-type") != "rope"


def _yarn_factor(case: Case) -> Iterator[Hit]:
    if _yarn(case) and case.has("--rotary-scaling-factor") is False:
        yield Hit("--rotary-scaling-factor is missing: 1.0 is the default, and YaRN extends nothing",
                  ("--rotary-scaling-factor",))  # fmt: skip


def _yarn_original(case: Case) -> Iterator[Hit]:
    most, factor = case.size("--max-position-embeddings"), case.number("--rotary-scaling-factor")
    if _yarn(case) and not case.at_least("0.14") and factor not in (None, 1.0) and most not in (None, _TRUE_ORIGINAL):
        yield Hit(f"--max-position-embeddings {most} is read as YaRN's original length, which is {_TRUE_ORIGINAL} for "
                  "DeepSeek-V2", ("--max-position-embeddings",))  # fmt: skip


RULES = (
    Rule(
        id="model-mismatch",
        family="models",
        severity=Severity.ERROR,
        what="flags that contradict the model in the name",
        why="another network is trained than the name says",
        fix="correct the flag or the name; a reduced model carries smoke, tiny or proxy in its name",
        releases="all",
        evidence="script/models.py, from the published configurations",
        check=_identity,
    ),
    Rule(
        id="rope-scaling-missing",
        family="models",
        severity=Severity.WARNING,
        what="Llama 3.1 or 3.2 without rotary scaling",
        why="the published models scale their frequencies",
        fix="add --use-rope-scaling",
        releases="all",
        evidence="script/models.py",
        check=_missing_scaling,
    ),
    Rule(
        id="rope-factor-dropped",
        family="models",
        severity=Severity.ERROR,
        what="--rope-scaling-factor with a trainer that forgets it",
        why="it is parsed and not passed on: the factor stays 8, which is wrong for Llama 3.2 (32)",
        fix=("quantctl patch passes it on (rope_scaling_factor); quantctl exec does it for its own copy of the tree"),
        releases="all",
        evidence="pretrain_gpt.py, gpt_builders.py",
        check=_factor_dropped,
    ),
    Rule(
        id="rope-factor-alone",
        family="models",
        severity=Severity.WARNING,
        what="--rope-scaling-factor without --use-rope-scaling",
        why="only --use-rope-scaling switches scaling on",
        fix="add --use-rope-scaling",
        releases="all",
        evidence="core/models/gpt/gpt_model.py",
        check=_factor_alone,
    ),
    Rule(
        id="not-rotary",
        family="models",
        severity=Severity.WARNING,
        what="rotary flags without rotary positions",
        why="positions are learned by default: the flags are parsed and unused",
        fix="add --position-embedding-type rope",
        releases="all",
        evidence="training/arguments.py: the default is learned_absolute",
        check=_not_rotary,
    ),
    Rule(
        id="yarn-factor",
        family="models",
        severity=Severity.WARNING,
        what="multi-latent attention without --rotary-scaling-factor",
        why="the command line's default is 1.0, not DeepSeek's 40",
        fix="add --rotary-scaling-factor 40",
        releases="all",
        evidence="training/arguments.py",
        check=_yarn_factor,
    ),
    Rule(
        id="yarn-original-length",
        family="models",
        severity=Severity.WARNING,
        what="YaRN's original length from --max-position-embeddings",
        why="these releases have no flag of its own for it",
        fix="give --max-position-embeddings 4096",
        releases="0.10 - 0.13.1",
        evidence="core/transformer/multi_latent_attention.py",
        check=_yarn_original,
    ),
)
