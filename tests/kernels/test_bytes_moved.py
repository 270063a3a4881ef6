"""Every load and store of the kernels, counted in Triton's interpreter: as many bytes as the benchmarks divide by."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from quantctl.bench.work import AttentionShape, GroupedShape, LinearShape, qdq_bytes
from quantctl.kernels.formats import hifp8
from quantctl.kernels.formats.quantize import quantize_dequantize_along
from quantctl.kernels.products import reuse
from quantctl.kernels.products.fused_attention import fused_attention
from quantctl.kernels.products.grouped import grouped_linear
from quantctl.kernels.products.grouped_packed import dequantize_rows, quantize_rows_packed
from quantctl.kernels.products.groups import Groups
from quantctl.kernels.products.linear import quantized_linear
from quantctl.kernels.triton import packed as triton_packed
from quantctl.kernels.triton import qdq as triton_qdq
from quantctl.spec import parse

# numpy, in which the interpreter computes, reports what IEEE 754 says about Inf and NaN
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

SPECS = [
    *("mxfp8", "mxfp8:elem=e5m2", "mxfp6", "mxfp4", "mxfp4:round=stochastic", "nvfp4", "hifp8", "hifp8:scale=tensor"),
    *("fp8", "fp8:block=1x128", "fp8:block=128x128", "nvfp4:scale=multiply,block=16x16"),
    *("int8", "int8:block=32x32", "nvfp4:scale=4over6,extent=row", "hifp8:scale=fp32", "hifp4"),
    *("mxfp4:hadamard=16", "nvfp4:hadamard=32,signs=random"),
]
ROWS_ARE_BLOCKS = {"int8"}


@pytest.fixture
def traffic(monkeypatch):
    """Function: a context whose value collects the bytes of elements that kernels read and write in it.

    Those are int16 (bf16's bits) and uint8 (codes and block scales). Addresses, group ends and tensor scales are wider
    and not counted, nor are HiFloat8's tables, which stay in cache.
    """
    from triton.runtime.interpreter import interpreter_builder as builder

    monkeypatch.setenv("QUANTCTL_KERNELS", "triton")
    bytes_ = {"read": 0, "written": 0}
    load, store = builder.create_masked_load, builder.create_masked_store

    device = torch.device("cpu")
    like = torch.empty(0, device=device)
    tables = [hifp8.codes_table(like), hifp8.values_table(like)]

    def count(kind, pointers, mask) -> None:
        bits = pointers.get_element_ty().primitive_bitwidth
        first = int(pointers.data.min())
        in_table = any(table.data_ptr() <= first < table.data_ptr() + table.nbytes for table in tables)
        if bits <= 16 and not in_table:
            bytes_[kind] += bits // 8 * int(np.count_nonzero(np.broadcast_to(mask.data, pointers.data.shape)))

    def counted_load(pointers, mask, *rest):
        count("read", pointers, mask)
        return load(pointers, mask, *rest)

    def counted_store(pointers, value, mask, *rest):
        count("written", pointers, mask)
        return store(pointers, value, mask, *rest)

    monkeypatch.setattr(builder, "create_masked_load", counted_load)
    monkeypatch.setattr(builder, "create_masked_store", counted_store)

    @contextmanager
    def collect() -> Iterator[dict[str, int]]:
        before = dict(bytes_)
        found: dict[str, int] = {}
        yield found
        found.update({kind: bytes_[kind] - before[kind] for kind in bytes_})

    return collect


@pytest.mark.parametrize("axes", [(1,), (0,), (1, 0)], ids=str)
@pytest.mark.parametrize("spec", SPECS)
def test_quantize_dequantize(spec, axes, traffic) -> None:
    """33 x 140: tails and several tiles each way; what is masked out is not moved."""
    x = torch.randn((64, 160) if "hadamard" in spec else (33, 140)).to(torch.bfloat16)
    whole = spec in ROWS_ARE_BLOCKS and len(axes) == 1
    with traffic() as moved:
        quantize_dequantize_along(x, spec, axes)
    read, written = qdq_bytes(x.numel(), parse(spec), len(axes), whole=whole)
    assert moved == {"read": read, "written": written}
    directions = written // x.nbytes
    assert triton_qdq.bytes_moved(x, parse(spec), directions, whole=whole) == read + written


@pytest.mark.parametrize("spec", ["mxfp8", "mxfp6", "mxfp4", "nvfp4", "hifp8", "mxfp4:hadamard=16,signs=fixed"])
def test_linear_forward_and_backward(spec, traffic) -> None:
    shape = LinearShape(48 if "hadamard" in spec else 33, 64, 96)
    x = torch.randn(shape.tokens, shape.inputs).to(torch.bfloat16).requires_grad_()
    weight = torch.randn(shape.outputs, shape.inputs).to(torch.bfloat16).requires_grad_()
    with traffic() as moved:
        y = quantized_linear(x, weight, None, spec)
        torch.autograd.grad(y, (x, weight), torch.ones_like(y))
    tensor_scales = 2 * 4 if spec == "nvfp4" else 0  # written and read with the packed X
    assert sum(moved.values()) + tensor_scales == shape.qdq_bytes(spec)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("spec", ["mxfp6", "nvfp4", "hifp8:scale=tensor"])
def test_packing_of_groups(spec, axis, traffic) -> None:
    x, groups = torch.randn(40, 70).to(torch.bfloat16), Groups.of((7, 0, 33), 40, torch.device("cpu"))
    with traffic() as packing:
        _, packed, layout = quantize_rows_packed(x, groups, parse(spec), axis)
    with traffic() as unpacking:
        dequantize_rows(packed, layout, groups)
    tensor_scales = 0 if packed.tensor_scale is None else packed.tensor_scale.nbytes
    moved = tuple(sum(part.values()) + tensor_scales for part in (packing, unpacking))
    assert moved == triton_packed.bytes_moved(layout)


@pytest.mark.parametrize("keep", [False, True], ids=["anew", "reused"])
@pytest.mark.parametrize("spec", ["mxfp8", "nvfp4", "hifp8"])
def test_experts(spec, keep, traffic, monkeypatch) -> None:
    """The second micro batch; an expert without tokens."""
    monkeypatch.setenv(reuse.VARIABLE, str(int(keep)))
    shape = GroupedShape(tokens=20, experts=3, hidden=32, intermediate=16, top=2)
    counts = (7, 0, 33)
    assert sum(counts) == shape.rows

    def weights(*size: int) -> list[torch.Tensor]:
        return [torch.randn(size).to(torch.bfloat16).requires_grad_() for _ in counts]

    fc1, fc2 = weights(2 * shape.intermediate, shape.hidden), weights(shape.hidden, shape.intermediate)
    x = torch.randn(shape.rows, shape.hidden).to(torch.bfloat16).requires_grad_()
    for _ in range(2):
        with traffic() as forward:
            gate, up = grouped_linear(x, fc1, counts, spec).chunk(2, dim=-1)
            y = grouped_linear(gate * up, fc2, counts, spec)
        with traffic() as backward:
            torch.autograd.grad(y, (x, *fc1, *fc2), torch.ones_like(y))
    expected = shape.qdq_bytes(spec, reuse=keep)
    tensor_scales = 2 * 3 * 4 if spec == "nvfp4" else 0  # an expert's, written and read with the two packed X
    moved = {"forward": sum(forward.values()), "backward": sum(backward.values())}
    assert {part: n + tensor_scales for part, n in moved.items()} == expected


@pytest.mark.parametrize("spec", ["mxfp8", "nvfp4", "hifp8"])
def test_fused_attention_quantizes_queries_and_keys_once(spec, traffic) -> None:
    """The product itself is the library's."""
    shape = AttentionShape(sequence=16, heads=4, groups=2, head_dim=48)
    size = (shape.sequence, 1, shape.heads, shape.head_dim)
    q = torch.randn(size).to(torch.bfloat16).requires_grad_()
    k, v = (torch.randn(*size[:2], shape.groups, size[3]).to(torch.bfloat16).requires_grad_() for _ in range(2))
    with traffic() as moved:
        out = fused_attention(q, k, v, scale=0.1, causal=True, qk=spec, pv="none")
        torch.autograd.grad(out, (q, k, v), torch.ones_like(out))
    assert sum(moved.values()) == shape.qk_qdq_bytes(spec)


def test_what_a_bench_divides_by() -> None:
    """8192 x 8192 bf16: 2 + 2 bytes an element in one direction, 2 + 4 in both."""
    elements = math.prod((8192, 8192))
    assert qdq_bytes(elements, parse("mxfp8"), 1) == (2 * elements, 2 * elements)
    assert qdq_bytes(elements, parse("mxfp8"), 2) == (2 * elements, 4 * elements)
