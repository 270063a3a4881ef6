"""What is kept packed: the values of quantize_dequantize in every bit, in the bytes of the format, on both paths.

The kernels run in Triton's interpreter, with QUANTCTL_TEST_DEVICE=cuda on the GPU.
"""

from __future__ import annotations

import itertools
import os
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from quantctl.kernels.formats.quantize import quantize_dequantize
from quantctl.kernels.philox import Draw
from quantctl.kernels.products import linear, packed
from quantctl.kernels.products.linear import quantized_linear
from quantctl.kernels.products.packed import Layout, dequantize, quantize_dequantize_packed
from quantctl.spec import parse

# numpy, in which Triton's interpreter computes, reports what IEEE 754 says about Inf and NaN
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

# spec -> bytes of the elements and of the scales of 35 x 70 along axis 0 and along axis 1
SPECS = {
    "mxfp8": (35 * 70, (2 * 70, 35 * 3)),
    "mxfp8:elem=e5m2,scale=floor": (35 * 70, (2 * 70, 35 * 3)),
    "mxfp8:round=stochastic": (35 * 70, (2 * 70, 35 * 3)),
    "mxfp6": (35 * 54, (2 * 70, 35 * 3)),
    "mxfp6:elem=e2m3,scale=ceil,round=away": (35 * 54, (2 * 70, 35 * 3)),
    "mxfp4": (35 * 35, (2 * 70, 35 * 3)),
    "mxfp4:scale=even,round=stochastic": (35 * 35, (2 * 70, 35 * 3)),
    "nvfp4": (35 * 35, (3 * 70 + 4, 35 * 5 + 4)),
    "nvfp4:round=stochastic": (35 * 35, (3 * 70 + 4, 35 * 5 + 4)),
    "hifp8": (35 * 70, (0, 0)),
    "hifp8:scale=tensor": (35 * 70, (4, 4)),
    "hifp8:scale=tensor,round=stochastic": (35 * 70, (4, 4)),
}
LATER = {
    "int8": (35 * 70, (70 * 4, 35 * 4)),
    "int8:block=32x32": (35 * 70, (2 * 3 * 4, 2 * 3 * 4)),
    "fp8": (35 * 70, (4, 4)),
    "fp8:block=row,elem=e5m2,round=stochastic": (35 * 70, (70 * 4, 35 * 4)),
    "fp8:block=1x128": (35 * 70, (70 * 4, 35 * 4)),
    "mxfp8:block=32x32": (35 * 70, (2 * 3, 2 * 3)),
    "mxfp4:scale=floor,round=stochastic,headroom=3/4": (35 * 35, (2 * 70, 35 * 3)),
    "nvfp4:scale=multiply,block=16x16": (35 * 35, (3 * 5 + 4, 3 * 5 + 4)),
    "nvfp4:scale=4over6,extent=row": (35 * 35, (3 * 70 + 70 * 4, 35 * 5 + 35 * 4)),
    "nvfp4:scale=4over6_mse,block=16x16": (35 * 35, (3 * 5 + 4, 3 * 5 + 4)),
    "hifp8:scale=fp32,target=224": (35 * 70, (4, 4)),
    "hifp4": (35 * 35, (70 * 4, 35 * 2 * 4)),
}
TRANSFORMS = [
    *("mxfp4:hadamard=32,signs=random,round=stochastic", "int8:hadamard=64,hadamard_out=fp32"),
    *("nvfp4:extent=row,hadamard=16,signs=fixed", "hifp8:scale=fp32,hadamard=16"),
]
DEVICE = torch.device(os.environ.get("QUANTCTL_TEST_DEVICE", "cpu"))
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
DRAWS = (Draw(seed=2**63 + 5, call=2**33 + 7, rank=3), Draw(seed=2**63 + 5, call=8, rank=3))

by_spec = pytest.mark.parametrize("spec", SPECS)
by_axis = pytest.mark.parametrize("axis", [0, 1])


def values(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """Many magnitudes; NaN, Inf, zeros of both signs, subnormals, the dtype's largest number."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, columns, generator=generator)
    x = (x * 2.0 ** (8 * torch.randn(rows, columns, generator=generator))).to(dtype)
    info = torch.finfo(dtype)
    special = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0, info.max, info.tiny / 4, -info.tiny], dtype=dtype)
    x.view(-1)[:: x.numel() // 7][:7] = special
    x[:, -1] = 0
    return x.to(DEVICE)


@pytest.fixture
def both(monkeypatch, same):
    """Function: pack with both implementations, compare all bits with each other and with quantize_dequantize."""

    def check(x: Tensor, spec: str, axis: int) -> tuple[packed.Packed, Layout]:
        results = {}
        for choice in ("triton", "reference"):
            monkeypatch.setenv("QUANTCTL_KERNELS", choice)
            operand, kept, layout = quantize_dequantize_packed(x, parse(spec), axis, DRAWS)
            results[choice] = operand, kept, dequantize(kept, layout)
        for operand, kept, back in results.values():
            same(operand, quantize_dequantize(x, spec, 1, rng=DRAWS[0]))
            same(back, quantize_dequantize(x, spec, axis, rng=DRAWS[1 - axis]))
            assert back.is_contiguous()
            for ours, reference in zip(kept, results["reference"][1], strict=True):
                assert (ours is None) == (reference is None)
                assert ours is None or torch.equal(ours.nan_to_num(-1), reference.nan_to_num(-1))
        return kept, layout

    return check


@pytest.mark.parametrize("spec", SPECS | LATER)
@by_axis
def test_packing_keeps_every_bit_in_the_bytes_of_the_format(spec, axis, both) -> None:
    kept, layout = both(values(35, 70, torch.bfloat16), spec, axis)
    elements, scales = (SPECS | LATER)[spec]
    assert kept.elements.numel() == elements
    assert packed.nbytes(layout) == elements + scales[axis]
    assert packed.nbytes(layout) == sum(t.numel() * t.element_size() for t in kept if t is not None)


@pytest.mark.parametrize("spec", TRANSFORMS)
@by_axis
def test_codes_of_what_is_behind_a_transform(spec, axis, both, monkeypatch) -> None:
    """In the same pass; and alone, where wgrad begins with something else."""
    x = values(64, 128, torch.bfloat16)
    kept, layout = both(x, spec, axis)
    monkeypatch.setenv("QUANTCTL_KERNELS", "triton")
    alone, same_layout = packed.packed_matrix(x, parse(spec), axis, DRAWS[1 - axis])
    assert layout == same_layout
    for ours, other in zip(alone, kept, strict=True):
        assert ours is other or torch.equal(ours.nan_to_num(-1), other.nan_to_num(-1))


@pytest.mark.parametrize(
    "spec", ["mxfp8", "mxfp6", "mxfp4:round=stochastic", "nvfp4", "hifp8:scale=tensor", "int8", "hifp4"]
)
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@by_axis
def test_other_dtypes(spec, dtype, axis, both) -> None:
    both(values(33, 40, dtype), spec, axis)


@pytest.mark.parametrize("spec", ["mxfp8", "mxfp8:elem=e5m2", "mxfp6", "mxfp4", "nvfp4", "hifp8", "hifp8:scale=tensor"])
def test_every_bf16(spec, all_bf16, both) -> None:
    both(all_bf16.to(DEVICE).view(-1, 256), spec, 1)


@pytest.mark.parametrize("spec", ["mxfp6:round=stochastic", "nvfp4", "hifp8"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 200), (100, 3), (32, 128), (0, 32), (32, 0)], ids=str)
@by_axis
def test_sizes(spec, shape, axis, both) -> None:
    both(torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(DEVICE), spec, axis)


@pytest.mark.parametrize(
    ("spec", "axis", "pack", "unpack"),
    [
        # 64 x 96 bf16 are 12288 bytes: read and written, and the codes and scales
        ("mxfp8", 0, 2 * 12288 + 6144 + 192, 12288 + 6144 + 192),
        ("mxfp4", 1, 2 * 12288 + 3072 + 192, 12288 + 3072 + 192),
        ("nvfp4", 0, 3 * 12288 + 3072 + 384 + 4, 12288 + 3072 + 384 + 4),
        ("hifp8", 0, 2 * 12288 + 6144, 12288 + 6144),
    ],
)
def test_bytes_moved(spec, axis, pack, unpack) -> None:
    from quantctl.kernels.triton import packed as triton_packed

    assert triton_packed.bytes_moved(Layout(parse(spec), axis, 64, 96, torch.bfloat16)) == (pack, unpack)


# What layers keep


def operands(dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor, Tensor]:
    """X [9, 5, 70], W [50, 70], dY."""
    generator = torch.Generator().manual_seed(0)
    x, w, dy = (torch.randn(size, generator=generator).to(DEVICE, dtype) for size in ((9, 5, 70), (50, 70), (9, 5, 50)))
    return x.requires_grad_(), w.requires_grad_(), dy


def step(spec: str, dtype: torch.dtype = torch.bfloat16) -> tuple[list[Tensor], list[Tensor]]:
    """Y, dX and dW, and what was saved for the backward."""
    torch.manual_seed(5)
    x, w, dy = operands(dtype)
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> int:
        saved.append(tensor)
        return len(saved) - 1

    unpacked: list[int] = []

    def give(index: int) -> Tensor:
        unpacked.append(index)
        return saved[index]

    with saved_tensors_hooks(keep, give):
        y = quantized_linear(x, w, None, spec)
    y.backward(dy)
    assert sorted(unpacked) == list(range(len(saved)))  # each once: some hooks give a tensor back once only
    return [y.detach(), x.grad, w.grad], saved


@pytest.fixture(autouse=True)
def _calls():
    before = torch.get_rng_state()
    yield
    torch.set_rng_state(before)


@pytest.mark.parametrize(("spec", "dtype"), [*itertools.product(SPECS, DTYPES), *((spec, DTYPES[0]) for spec in LATER)])
@pytest.mark.parametrize("bwd", ["quantized", "dequantized"])
def test_gradients_are_those_of_an_unpacked_input_in_fewer_bytes(spec, bwd, dtype, monkeypatch) -> None:
    text = f"{spec}{',' if ':' in spec else ':'}bwd={bwd}"
    results, saved = step(text, dtype)
    monkeypatch.setattr(linear, "_packable", lambda *_: False)
    expected, unpacked = step(text, dtype)
    assert all(map(torch.equal, results, expected))
    layout = Layout(parse(text), int(bwd == "dequantized"), 45, 70, dtype)
    weight = 50 * 70 * dtype.itemsize
    assert sum(t.untyped_storage().nbytes() for t in saved) == weight + packed.nbytes(layout)
    assert sum(t.untyped_storage().nbytes() for t in unpacked) == weight + 45 * 70 * dtype.itemsize


@pytest.mark.parametrize("spec", ["none", "mxfp8:bwd=high_precision", "hifp8:bwd=high_precision"])
def test_an_input_that_wgrad_wants_as_it_is_stays_as_it_is(spec) -> None:
    _, (x, w) = step(spec)
    assert torch.equal(x, operands()[0])
    assert torch.equal(w, operands()[1])


def context(spec: str, **attributes) -> SimpleNamespace:
    """An autograd context in the forward of a layer that both gradients are asked of."""
    ctx = SimpleNamespace(quant_site="linear", quant_type=spec, needs_input_grad=(True, True), next_functions=(1, 1))
    ctx.save_for_backward = lambda *tensors: setattr(ctx, "saved_tensors", tensors)
    ctx.__dict__.update(attributes)
    return ctx


NOT_PACKED = {
    "gathered": ({}, lambda x: (torch.cat([x, x]), x)),
    "with gaps": ({}, lambda x: (x[..., :64],) * 2),
    "not recorded": ({"next_functions": ()}, lambda x: (x, x)),
    "no weight gradient": ({"needs_input_grad": (True, False)}, lambda x: (x, x)),
}


@pytest.mark.parametrize(("attributes", "inputs"), NOT_PACKED.values(), ids=NOT_PACKED)
def test_what_is_not_packed_is_saved_as_it_is(attributes, inputs) -> None:
    x, w, _ = (t.detach() for t in operands())
    total, own = inputs(x)
    w = w[:, : own.shape[-1]].contiguous()
    ctx = context("mxfp8", **attributes)
    linear.fprop(ctx, total, w, (own, w))
    assert all(a is b for a, b in zip(linear.saved(ctx), (own, w), strict=True))


@pytest.mark.parametrize("spec", ["mxfp8", "mxfp4:round=stochastic", "mxfp8:bwd=dequantized,round=stochastic"])
def test_a_gathered_input_has_the_operands_of_a_packed_one(spec) -> None:
    """Sequence parallelism saves the shard and gathers again: the draws are the same, and so is each operand."""
    x, w, dy = (t.detach() for t in operands())
    results = []
    for save in (x, x[:3]):
        torch.manual_seed(0)
        ctx = context(spec)
        y = linear.fprop(ctx, x, w, (save, w))
        linear.saved(ctx)
        dx = linear.dgrad(ctx, dy, w)
        results.append([y, dx, *linear.wgrad_operands(ctx, dy.flatten(0, 1), x.flatten(0, 1))])
    assert all(map(torch.equal, *results))


class _Careless(torch.autograd.Function):
    """A backward that takes the saved input as it comes."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.quant_site, ctx.quant_type = "linear", "mxfp8"
        return linear.fprop(ctx, x, w, (x, w))

    @staticmethod
    def backward(ctx, dy):
        x, w = linear.saved(ctx)
        return linear.dgrad(ctx, dy, w), dy.flatten(0, 1).t().matmul(x.flatten(0, 1))


def test_a_weight_gradient_of_an_input_that_is_not_there_is_refused() -> None:
    x, w, dy = operands()
    with pytest.raises(RuntimeError, match="invalid gradient at index 1"):
        _Careless.apply(x, w).backward(dy)


def test_the_input_in_the_backward_takes_no_memory() -> None:
    x, w, dy = (t.detach() for t in operands())
    ctx = context("mxfp8")
    linear.fprop(ctx, x, w, (x, w))
    own_input, weight = linear.saved(ctx)
    assert weight is w
    assert (own_input.shape, own_input.dtype) == ((9, 5, 0), x.dtype)
    _, tokens = linear.wgrad_operands(ctx, dy.flatten(0, 1), own_input.flatten(0, 1))
    assert torch.equal(tokens, quantize_dequantize(x.flatten(0, 1), "mxfp8", 0))
    assert ctx.quant_packed is None


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("spec", ["mxfp8", "mxfp4:round=stochastic"])
def test_recomputation_gives_the_same_gradients(reentrant, spec) -> None:
    expected, _ = step(spec)
    torch.manual_seed(5)
    x, w, dy = operands()
    checkpoint(lambda x: quantized_linear(x, w, None, spec), x, use_reentrant=reentrant).backward(dy)
    assert torch.equal(x.grad, expected[1])
    assert torch.equal(w.grad, expected[2])


def test_a_second_backward_over_a_kept_graph_gives_the_same() -> None:
    x, w, dy = operands()
    y = quantized_linear(x, w, None, "mxfp4")
    first = torch.autograd.grad(y, (x, w), dy, retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(y, (x, w), dy)))


def test_a_changed_input_changes_no_gradient_and_a_changed_weight_is_refused() -> None:
    expected, _ = step("mxfp8")
    x, w, dy = operands()
    inner = x * 1
    y = quantized_linear(inner, w, None, "mxfp8")
    inner.detach().zero_()
    y.backward(dy, retain_graph=True)
    assert torch.equal(w.grad, expected[2])
    with torch.no_grad():
        w.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward(dy)
