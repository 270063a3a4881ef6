"""A quantized length that is no multiple of the format's block.

Severity: warning

Why: the last block of every row is short: hardware pads it, and may not take the shape at all

Fix: choose a multiple of 32 (nvfp4: 16) after the split over tensor-parallel ranks

Releases: all

Evidence: OCP MX v1.0: 32 values share a scale; nvfp4: 16
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit

# format -> values in a block; hifp8 has no blocks
BLOCKS = {"mxfp8": 32, "mxfp6": 32, "mxfp4": 32, "nvfp4": 16}


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


def check(case: Case) -> Iterator[Hit]:
    if not case.local:
        return
    for role, sizes in _reduced(case).items():
        for format_ in sorted(case.formats.get(role, ())):
            block = BLOCKS.get(format_)
            for what, size, flag in sizes:
                if block and size is not None and size % block:
                    yield Hit(f"{what} {size} is no multiple of {format_}'s block of {block} ({role})", (flag,))
