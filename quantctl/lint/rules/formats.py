"""Which number formats the products really get, against what the command and its name promise."""

from __future__ import annotations

import re
from collections.abc import Iterator

from quantctl.errors import QuantctlError
from quantctl.lint.case import Case
from quantctl.lint.command import SWIFT
from quantctl.lint.rule import Hit, Rule, Severity
from quantctl.lint.who import LAYERS, delivered
from quantctl.outside.numbers import whole
from quantctl.spec import FORMATS, parse

# format -> values in a block; hifp8 has no blocks
BLOCKS = {"mxfp8": 32, "mxfp6": 32, "mxfp4": 32, "nvfp4": 16}
_WORD = re.compile(r"(?<![a-z0-9])(fa|linear|" + "|".join(FORMATS) + r"|fp8|fp4)(?![a-z0-9])", re.IGNORECASE)


def _never_run(case: Case) -> Iterator[Hit]:
    roles = [role for role in case.quantized if role in LAYERS]
    if case.local is False and roles:
        asked = ", ".join(f"{role}={case.quantized[role]}" for role in roles)
        given = "is given" if case.has("--transformer-impl") else "is the default"
        yield Hit(
            f"{asked} is never executed: --transformer-impl {case.implementation} {given}", ("--transformer-impl",)
        )


def _ignored(case: Case) -> Iterator[Hit]:
    if case.local and case.is_megatron and not case.has("--use-legacy-models"):
        for name in ("--fp8-format", "--fp4-format"):
            if case.has(name):
                yield Hit(f"{name} is ignored by the local layers: they train in the training dtype", (name,))


def _recipe_alone(case: Case) -> Iterator[Hit]:
    for kind in ("fp8", "fp4"):
        if case.has(f"--{kind}-recipe") and case.has(f"--{kind}-format") is False:
            yield Hit(f"--{kind}-recipe without --{kind}-format: nothing is quantized", (f"--{kind}-recipe",))


def _spec(case: Case) -> Iterator[Hit]:
    for role, spec in (case.selectors or {}).items():
        try:
            parse(spec, role)
        except QuantctlError as error:
            yield Hit(f"{role}: {error.message}", fix=error.hint)
    if case.command.staged and case.command.selectors is None and case.command.mode:
        yield Hit(f"--mode {case.command.mode} is no mode", fix="quantctl list modes shows them")


def _promises(name: str) -> tuple[set[str], set[str]]:
    """The formats and the sites (linear, qk) that a name speaks of."""
    words = [word.lower() for word in _WORD.findall(name.replace("_", " ").replace(".", " "))]
    return {word for word in words if word not in ("fa", "linear")}, {
        {"fa": "qk", "linear": "linear"}[word] for word in words if word in ("fa", "linear")
    }


def _name(case: Case) -> Iterator[Hit]:
    got = delivered(case)
    if got is None:
        return
    gives = ", ".join(sorted(got)) or "nothing quantized"
    for name in case.names:
        formats, sites = _promises(name)
        if missing := sorted(formats - got):
            yield Hit(f"the name {name} says {', '.join(missing)}, the command gives: {gives}", ("--transformer-impl",))
        elif case.local and formats & set(FORMATS):
            lacking = sorted(sites - case.quantized.keys())
            more = sorted(set(case.quantized) & {"linear", "qk"} - sites) if sites else []
            if lacking or more:
                says = f"quantizes {', '.join(sorted(sites))}"
                yield Hit(f"the name {name} {says}, the selectors: {', '.join(sorted(case.quantized))}")


def _block(case: Case) -> Iterator[Hit]:
    if not case.local:
        return
    for role, sizes in _reduced(case).items():
        spec = case.quantized.get(role, "").partition(":")[0]
        block = BLOCKS.get(spec)
        for what, size, flag in sizes:
            if block and size is not None and size % block:
                yield Hit(f"{what} {size} is no multiple of {spec}'s block of {block} ({role})", (flag,))


def _reduced(case: Case) -> dict[str, list[tuple[str, int | None, str]]]:
    """Role -> the lengths along which its operands are quantized on one rank, with their flags."""
    heads, hidden = case.size("--num-attention-heads"), case.size("--hidden-size")
    width = case.size("--kv-channels")
    if width is None and case.has("--kv-channels") is False and heads and hidden:
        width = hidden // heads
    if case.has("--multi-latent-attention"):
        qk, rope = case.size("--qk-head-dim"), case.size("--qk-pos-emb-head-dim")
        width = qk + rope if qk and rope else None
    tensor = case.size("--tensor-model-parallel-size") or 0

    def shard(name: str) -> int | None:
        size = case.size(name) if case.arguments.last(name) else None
        return size // tensor if size and tensor and size % tensor == 0 else None

    return {
        "linear": [
            ("hidden size", hidden, "--hidden-size"),
            ("the MLP's shard", shard("--ffn-hidden-size"), "--ffn-hidden-size"),
            ("an expert's shard", shard("--moe-ffn-hidden-size"), "--moe-ffn-hidden-size"),
        ],
        "qk": [("head width", width, "--kv-channels")],
        "pv": [("sequence length", case.size("--seq-length"), "--seq-length")],
    }


def _swift(case: Case) -> Iterator[Hit]:
    if case.command.program != SWIFT:
        return
    version = _swift_version(case)
    if version and (whole(version.partition(".")[0]) or 0) >= 4 and case.quantized:
        yield Hit(
            f"ms-swift {version} builds Transformer Engine layers: the selectors are never executed",
            severity=Severity.ERROR,
        )
    elif version is None:
        yield Hit("ms-swift 4.x builds Transformer Engine layers, where no selector acts; 3.x takes the tree of "
                  "MEGATRON_LM_PATH and --transformer_impl local", severity=Severity.NOTE)  # fmt: skip


def _swift_version(case: Case) -> str | None:
    if not case.setting.here:
        return None
    import importlib.metadata

    try:
        return importlib.metadata.version("ms-swift")
    except importlib.metadata.PackageNotFoundError:
        return None


RULES = (
    Rule(
        id="selectors-never-run",
        family="formats",
        severity=Severity.ERROR,
        what="selectors with layers other than local",
        why=("transformer_engine layers never reach the files that hold the selectors: the run trains unquantized"),
        fix=("add --transformer-impl local, or leave the selectors at none and use Transformer Engine's own recipes"),
        releases="all",
        evidence="gpt_layer_specs.py; proof.json of such a run counts no product",
        check=_never_run,
    ),
    Rule(
        id="fp8-ignored",
        family="formats",
        severity=Severity.ERROR,
        what="--fp8-format or --fp4-format with local layers",
        why="nothing reads it there: the loss is the same with and without",
        fix=("take it out and use quantctl's selectors, or train with --transformer-impl transformer_engine"),
        releases="all",
        evidence="run on 0.12.3, 0.16.1 and 0.19.0: identical losses",
        check=_ignored,
    ),
    Rule(
        id="recipe-without-format",
        family="formats",
        severity=Severity.WARNING,
        what="--fp8-recipe or --fp4-recipe without its format",
        why="the recipe only says how; without a format nothing is quantized",
        fix="add --fp8-format hybrid or e4m3",
        releases="all",
        evidence="transformer_config.py: recipes are read under `if self.fp8`",
        check=_recipe_alone,
    ),
    Rule(
        id="format-unknown",
        family="formats",
        severity=Severity.ERROR,
        what="a selector's value that is no format spec",
        why="quantctl refuses it, and a patched tree stops at it",
        fix="quantctl list shows the modes, the README the specs",
        releases="all",
        evidence="quantctl/spec.py",
        check=_spec,
    ),
    Rule(
        id="name-says-otherwise",
        family="formats",
        severity=Severity.ERROR,
        what="a script or run name with a format that the run does not get",
        why="the results are filed under a format that was never computed",
        fix="correct the name, the selectors or the layers",
        releases="all",
        evidence="the names of the modes: FA_x is qk, linear_x is linear",
        check=_name,
    ),
    Rule(
        id="block-tail",
        family="formats",
        severity=Severity.WARNING,
        what="a quantized length that is no multiple of the format's block",
        why=("the last block of every row is short: hardware pads it, and may not take the shape at all"),
        fix="choose a multiple of 32 (nvfp4: 16) after the split over tensor-parallel ranks",
        releases="all",
        evidence="OCP MX v1.0: 32 values share a scale; nvfp4: 16",
        check=_block,
    ),
    Rule(
        id="ms-swift-te",
        family="formats",
        severity=Severity.ERROR,
        what="ms-swift 4.x with selectors",
        why="it builds Transformer Engine layers: selectors have no effect there",
        fix="use ms-swift 3.x with MEGATRON_LM_PATH and --transformer_impl local",
        releases="all",
        evidence="reported, not run here: 3.x trains on a Megatron-LM clone, 4.x builds its own layers",
        check=_swift,
    ),
)
