"""A quantized length that is no multiple of the format's block.

Severity: warning

Why: the last block of every row is short: hardware pads it, and may not take the shape at all

Fix: choose a multiple of the block (MX 32, nvfp4 16, hifp4 64, fp8 128) after the split over tensor-parallel ranks

Releases: all

Evidence: OCP MX v1.0: 32 values share a scale; nvfp4: 16
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit
from quantctl.spec import FormatSpec

BLOCKS = {"hifp4": 64}
"""Values in a block of a format whose specs do not say it."""


def _block(spec: FormatSpec) -> int:
    """Values along the reduced axis that share a scale; 0 where all do, or none."""
    along = (spec.block or "").partition("x")[2]
    return int(along) if along.isdecimal() else BLOCKS.get(spec.format, 0)


def reduced(case: Case) -> dict[str, list[tuple[str, int | None, str]]]:
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


def check(case: Case) -> Iterator[Hit]:
    if not case.local:
        return
    for role, sizes in reduced(case).items():
        said = (own.spec for specs in case.products.get(role, ()) for _, own in specs.items())
        for format_, block in sorted({(spec.format, _block(spec)) for spec in said}):
            for what, size, flag in sizes:
                if block and size is not None and size % block:
                    yield Hit(f"{what} {size} is no multiple of {format_}'s block of {block} ({role})", (flag,))
