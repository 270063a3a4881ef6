"""`python -m quantctl.bench.predict`: how long the GPU cases should take by arithmetic, as the tables of docs/bench.md.

Time = bytes / 4.2 TB/s + operations / 790 TFLOP/s: what a copy of 2 GiB was seen to reach on an H200, and four fifths
of its data sheet's dense bf16. Nothing overlaps, nothing is launched, small products are as fast as large ones: a
floor, not a measurement.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from quantctl.bench import attention, grouped, linear, qdq, step
from quantctl.bench.work import AttentionShape, GroupedShape, LinearShape, qdq_bytes
from quantctl.spec import parse

BYTES_A_SECOND = 4.2e12
FLOPS = 790e12

FUSED_PV_PRODUCTS = 11 / 7
"""Of flash attention's: the scores once more for the softmax before the output, and dQ apart from dK and dV
(triton_flash_forward.py has 1 + 2 products, triton_flash_backward.py 4 + 4)."""


ADAM_BYTES = 38
"""A weight and step: gradient, master weight and both moments read, the three and the bf16 weight written, the gradient
read once more for its norm and zeroed; all but the weight in fp32."""


def milliseconds(bytes_: float, flops: float = 0) -> float:
    return 1e3 * (bytes_ / BYTES_A_SECOND + flops / FLOPS)


def _markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    cells = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(f"{c:.3f}" if isinstance(c, float) else str(c) for c in row) + " |" for row in cells
    )


def _qdq_row(spec: str) -> list[object]:
    row: list[object] = [spec]
    for axes in (1, 2):
        read, written = qdq_bytes(qdq.SIZE**2, parse(spec), axes)
        row += [f"{read // qdq.SIZE**2} + {written // qdq.SIZE**2}", milliseconds(read + written)]
    return row


def _linear_row(shape: LinearShape) -> list[object]:
    quantized = [milliseconds(shape.qdq_bytes(spec), shape.flops) for spec in linear.SPECS]
    return [shape, milliseconds(0, shape.flops), *quantized]


def _grouped_row(shape: GroupedShape, part: str, published: float) -> list[object]:
    flops = shape.flops * (1 if part == "forward" else 2)
    quantized = [milliseconds(shape.qdq_bytes("mxfp8", reuse=reuse)[part], flops) for reuse in (False, True)]
    return [f"{shape.tokens} x {shape.experts}", part, published, milliseconds(0, flops), *quantized]


def _attention_row(shape: AttentionShape) -> list[object]:
    qk = shape.qk_qdq_bytes("mxfp8")
    values = sum(qdq_bytes(shape.sequence * shape.groups * shape.head_dim, parse("mxfp8"), 1))
    both = milliseconds(qk + values, shape.flops * FUSED_PV_PRODUCTS)
    return [shape.sequence, milliseconds(0, shape.flops), milliseconds(qk, shape.flops), both]


def _step_rows(size: step.Size) -> list[list[object]]:
    """The products, the optimizer and the quantizations of a step; norms, activations and the loss are not counted."""
    d = size.hidden // size.heads
    tokens = size.micro_batch * size.sequence
    layer = (
        LinearShape(tokens, size.hidden, size.hidden + 2 * size.groups * d),
        LinearShape(tokens, size.hidden, size.hidden),
        LinearShape(tokens, size.hidden, 2 * size.ffn),
        LinearShape(tokens, size.ffn, size.hidden),
    )
    head = LinearShape(tokens, size.hidden, size.vocabulary)
    attention_of_a_sample = AttentionShape(size.sequence, size.heads, size.groups, d)
    micro_batches, samples = size.global_batch // size.micro_batch, size.layers * size.global_batch
    flops = micro_batches * (size.layers * sum(shape.flops for shape in layer) + head.flops)
    flops += samples * attention_of_a_sample.flops
    weights = size.layers * sum(shape.inputs * shape.outputs for shape in layer) + 2 * size.hidden * size.vocabulary
    moved = ADAM_BYTES * weights
    linears = micro_batches * size.layers * sum(shape.qdq_bytes("mxfp8") for shape in layer)
    qk = samples * attention_of_a_sample.qk_qdq_bytes("mxfp8")
    modes = {"bf16, attention auto": 0, "FA_mxfp8": qk, "linear_mxfp8": linears, "FA_linear_mxfp8": linears + qk}
    return [[mode, milliseconds(moved + more, flops)] for mode, more in modes.items()]


def tables() -> str:
    """One Markdown table a benchmark; milliseconds if nothing else is said."""
    copy = ["copy", "2 + 2", milliseconds(4 * qdq.SIZE**2), "", ""]
    experts = [
        _grouped_row(shape, part, published)
        for shape, both in grouped.PUBLISHED.items()
        for part, published in zip(grouped.PARTS, both, strict=True)
    ]
    made = {
        "format|B/element, one axis|expected ms|B/element, both|expected ms": [copy, *map(_qdq_row, qdq.SPECS)],
        "|".join(("tokens x in x out", "bf16", *linear.SPECS)): map(_linear_row, linear.SHAPES),
        "tokens x experts|part|published (H100)|bf16|mxfp8|mxfp8, weights reused": experts,
        "sequence|SDPA|qk=mxfp8|qk=mxfp8 pv=mxfp8": map(_attention_row, attention.SHAPES),
        "step|ms": _step_rows(step.FULL),
    }
    return "\n\n".join(_markdown(head.split("|"), rows) for head, rows in made.items())


if __name__ == "__main__":
    print(tables())
