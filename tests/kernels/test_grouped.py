"""Grouped products against a loop over the groups, in which each is a linear layer of its own: difference 0.0."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from quantctl.errors import QuantctlError
from quantctl.kernels.formats.hadamard import size_of
from quantctl.kernels.formats.quantize import quantize_dequantize
from quantctl.kernels.measure import hits
from quantctl.kernels.philox import Draw
from quantctl.kernels.products import grouped, reuse
from quantctl.kernels.products.grouped import grouped_linear
from quantctl.kernels.products.grouped_packed import dequantize_rows, quantize_rows_packed
from quantctl.kernels.products.grouped_quantize import quantize_rows, quantize_stack
from quantctl.kernels.products.groups import Groups
from quantctl.kernels.products.linear import quantized_linear
from quantctl.kernels.products.packed import nbytes, quantize_dequantize_packed
from quantctl.kernels.triton import grouped as triton_grouped
from quantctl.spec import parse

# numpy, in which Triton's interpreter computes, reports what IEEE 754 says about Inf and NaN
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

UNEVEN = "uneven, some empty, some in whole blocks"
COUNTS = {
    UNEVEN: (7, 0, 26, 64, 1, 0, 32),
    "one": (33,),
    "only the last": (0, 0, 40),
    "no rows": (0, 0),
}
SPECS = ("mxfp8", "mxfp4:scale=floor", "nvfp4", "hifp8", "hifp8:scale=tensor")
LATER = (
    *("int8", "int8:block=tensor", "fp8", "fp8:block=1x128", "mxfp8:block=32x32", "nvfp4:scale=4over6,block=16x16"),
    *("nvfp4:scale=multiply,extent=row", "hifp8:scale=fp32", "hifp4"),
)
TRANSFORMED = (
    *("mxfp4:hadamard=32", "nvfp4:scale=multiply,hadamard=16,signs=fixed", "nvfp4:extent=row,hadamard=64,signs=random"),
    *("hifp8:hadamard=16,signs=random", "hifp8:scale=tensor,hadamard=128", "mxfp8:block=32x32,hadamard=64"),
    *("fp8:hadamard=32", "int8:hadamard=16,hadamard_out=fp32", "mxfp4:round=stochastic,hadamard=16,signs=random"),
)
BWD = ("quantized", "dequantized", "high_precision")
DRAWS = (Draw(seed=2**63 + 5, call=2**33 + 7, rank=3), Draw(seed=2**63 + 5, call=8, rank=3))

by_counts = pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)


def values(*shape: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> Tensor:
    """Rows of different magnitudes, with NaN, Inf and a zero row where there is room."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator) * 2.0 ** (4 * torch.randn(shape[0], 1, generator=generator))
    if shape[0] > 40:
        x[3, 4], x[20, 7], x[11] = torch.inf, torch.nan, 0.0
    return x.to(dtype)


def groups_of(counts: tuple[int, ...], *, known: bool) -> Groups:
    groups = Groups.of(counts, sum(counts), torch.device("cpu"))
    return groups if known else Groups(groups.rows, groups.ends, None)


@pytest.mark.parametrize(
    ("spec", "counts"), [*itertools.product(SPECS, COUNTS.values()), *((spec, COUNTS[UNEVEN]) for spec in LATER)]
)
def test_each_group_is_quantized_as_if_it_were_alone(spec, counts, same) -> None:
    x = values(sum(counts), 70)
    by_columns, by_rows = quantize_rows(x, groups_of(counts, known=False), parse(spec), (1, 0))
    for axis, result in ((1, by_columns), (0, by_rows)):
        same(result, torch.cat([quantize_dequantize(part, spec, axis) for part in x.split(counts)]))


@pytest.mark.parametrize("spec", [*SPECS, *LATER])
def test_each_weight_is_quantized_as_if_it_were_alone(spec, same) -> None:
    weights = [values(50, 70, dtype=torch.float32, seed=seed) for seed in range(3)]
    for axis, result in zip((1, 0), quantize_stack(weights, parse(spec), (1, 0)), strict=True):
        same(result, torch.stack([quantize_dequantize(weight, spec, axis) for weight in weights]))


def filled(x: Tensor, spec: str) -> Tensor:
    """With zeros behind the rows, as a transform along them wants it."""
    return torch.nn.functional.pad(x, (0, 0, 0, -len(x) % size_of(parse(spec))))


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("spec", [spec for spec in TRANSFORMED if "stochastic" not in spec])
def test_a_transform_along_rows_is_that_of_zeros_behind_each_group(spec, known, same) -> None:
    counts = COUNTS[UNEVEN]
    x, groups = values(sum(counts), 128), groups_of(counts, known=known)
    by_columns, by_rows = quantize_rows(x, groups, parse(spec), (1, 0), DRAWS)
    parts = x.split(counts)
    same(by_columns, torch.cat([quantize_dequantize(part, spec, 1, rng=DRAWS[0]) for part in parts]))
    expected = torch.cat([quantize_dequantize(filled(part, spec), spec, 0, rng=DRAWS[1]) for part in parts])
    same(by_rows[: len(expected)], expected)
    assert len(by_rows) == groups.filled(size_of(parse(spec))).rows >= len(expected)
    assert not by_rows[len(expected) :].any()
    assert not known or len(by_rows) == len(expected)


@pytest.mark.parametrize("spec", TRANSFORMED)
def test_weights_behind_a_transform(spec, same) -> None:
    weights = [values(128, 64, dtype=torch.float32, seed=seed) for seed in range(2)]
    if "stochastic" in spec:
        spec = spec.replace("round=stochastic,", "")
    sizes = [axis for axis in (1, 0) if weights[0].shape[axis] % size_of(parse(spec)) == 0]
    for axis in sizes:
        (result,) = quantize_stack(weights, parse(spec), (axis,), DRAWS[:1])
        same(result, torch.stack([quantize_dequantize(weight, spec, axis, rng=DRAWS[0]) for weight in weights]))


def both(monkeypatch, same, quantize) -> None:
    results = {}
    for kernels in ("reference", "triton"):
        monkeypatch.setenv("QUANTCTL_KERNELS", kernels)
        results[kernels] = quantize()
    for actual, expected in zip(results["triton"], results["reference"], strict=True):
        same(actual, expected)


STOCHASTIC = ("mxfp4:round=stochastic", "nvfp4:round=stochastic", "hifp8:round=stochastic")


@pytest.mark.parametrize(
    ("spec", "width"),
    [
        *((spec, 140) for spec in (*SPECS, STOCHASTIC[0])),
        *((spec, 66) for spec in STOCHASTIC),
        *((s, 72) for s in LATER),
    ],
)
def test_triton_equals_the_reference(spec, width, monkeypatch, same) -> None:
    """Tails in both directions, two tiles a row, groups of one tile and of two; four neighbours a counter or not."""
    counts = COUNTS[UNEVEN]
    x, groups = values(sum(counts), width), groups_of(counts, known=True)
    both(monkeypatch, same, lambda: quantize_rows(x, groups, parse(spec), (1, 0), DRAWS))
    if spec == "mxfp8":
        both(monkeypatch, same, lambda: quantize_rows(x, groups, parse(spec), (0,)))


@pytest.mark.parametrize(
    ("counts", "dtype"), [*((counts, torch.float32) for counts in COUNTS.values()), (COUNTS[UNEVEN], torch.float16)]
)
def test_triton_with_other_groups_and_dtypes(counts, dtype, monkeypatch, same) -> None:
    x, groups = values(sum(counts), 40, dtype=dtype), groups_of(counts, known=False)
    for spec in ("mxfp8", "nvfp4"):
        both(monkeypatch, same, lambda spec=spec: quantize_rows(x, groups, parse(spec), (1, 0), DRAWS))
        packs_to_the_same_bits(x, counts, spec, 0, monkeypatch, same)


# spec -> bytes of the elements and of the scales of 130 x 70 in 7 groups along axis 0 and along axis 1. There are at
# most 10 tiles of 32 rows, if each group starts one: (130 + 7 * 31) / 32
PACKED = {
    "mxfp8": (130 * 70, (10 * 70, 130 * 3)),
    "mxfp6": (130 * 54, (10 * 70, 130 * 3)),
    "mxfp4:round=stochastic": (130 * 35, (10 * 70, 130 * 3)),
    "nvfp4": (130 * 35, (20 * 70 + 7 * 4, 130 * 5 + 7 * 4)),
    "nvfp4:round=stochastic": (130 * 35, (20 * 70 + 7 * 4, 130 * 5 + 7 * 4)),
    "hifp8": (130 * 70, (0, 0)),
    "hifp8:scale=tensor,round=stochastic": (130 * 70, (7 * 4, 7 * 4)),
    "int8": (130 * 70, (7 * 70 * 4, 130 * 4)),
    "fp8:round=stochastic": (130 * 70, (7 * 4, 7 * 4)),
    # tiles of 128 rows
    "fp8:block=1x128": (130 * 70, (7 * 70 * 4, 130 * 4)),
    "mxfp8:block=32x32": (130 * 70, (10 * 3, 10 * 3)),
    "nvfp4:scale=multiply,extent=row": (130 * 35, (20 * 70 + 7 * 70 * 4, 130 * 5 + 130 * 4)),
    # tiles of 64 rows
    "hifp4": (130 * 35, (8 * 70 * 4, 130 * 2 * 4)),
}


def packs_to_the_same_bits(x: Tensor, counts: tuple[int, ...], spec: str, axis: int, monkeypatch, same) -> int:
    """Both implementations give the same codes and scales, whose values are those of quantize_rows. Their bytes."""
    groups, packed = groups_of(counts, known=False), {}
    for kernels in ("reference", "triton"):
        monkeypatch.setenv("QUANTCTL_KERNELS", kernels)
        operand, kept, layout = quantize_rows_packed(x, groups, parse(spec), axis, DRAWS)
        back = dequantize_rows(kept, layout, groups.filled(size_of(parse(spec)) if axis == 0 else 1))
        for actual, ax in ((operand, 1), (back, axis)):
            same(actual, quantize_rows(x, groups, parse(spec), (ax,), (DRAWS[1 - ax],))[0])
        assert back.is_contiguous()
        packed[kernels] = [tensor for tensor in kept if tensor is not None]
    for actual, expected in zip(*packed.values(), strict=True):
        assert torch.equal(actual.nan_to_num(-1), expected.nan_to_num(-1))
    bytes_ = sum(tensor.nbytes for tensor in packed["triton"])
    assert nbytes(layout) == bytes_
    return bytes_


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("spec", PACKED)
def test_packing_keeps_every_bit_in_the_bytes_of_the_format(spec, axis, monkeypatch, same) -> None:
    counts, (elements, scales) = COUNTS[UNEVEN], PACKED[spec]
    assert packs_to_the_same_bits(values(130, 70), counts, spec, axis, monkeypatch, same) == elements + scales[axis]


@pytest.mark.parametrize("spec", TRANSFORMED)
def test_triton_behind_a_transform(spec, monkeypatch, same) -> None:
    width = max(64, size_of(parse(spec)))
    counts, x = (7, 0, 26, 33), values(66, width)
    for axis in (0, 1) if "extent" in spec else (0,):
        packs_to_the_same_bits(x, counts, spec, axis, monkeypatch, same)
    groups, weights = groups_of(counts, known=True), list(values(2 * width, width).split(width))
    both(monkeypatch, same, lambda: quantize_rows(x, groups, parse(spec), (1, 0), DRAWS))
    if spec in TRANSFORMED[::3]:
        both(monkeypatch, same, lambda: quantize_stack(weights, parse(spec), (1, 0), DRAWS))


@pytest.mark.parametrize("spec", ["mxfp6", "nvfp4", "hifp8:scale=tensor"])
def test_each_group_is_packed_as_if_it_were_alone(spec) -> None:
    counts, x = COUNTS[UNEVEN], values(130, 70)
    groups, parsed = groups_of(counts, known=False), parse(spec)
    _, kept, _ = quantize_rows_packed(x, groups, parsed, 0)
    alone = [quantize_dequantize_packed(part, parsed, 0)[1] for part in x.split(counts)]
    assert torch.equal(kept.elements, torch.cat([part.elements for part in alone]))
    if kept.tensor_scale is not None:
        assert torch.equal(kept.tensor_scale, torch.stack([part.tensor_scale for part in alone]))
    if kept.block_scales is not None:
        a_tile = 2 if spec == "nvfp4" else 1
        starts = [0, *(a_tile * end for end in groups.tile_ends(32).tolist())]
        for start, part in zip(starts, alone, strict=False):
            assert torch.equal(kept.block_scales[start : start + len(part.block_scales)], part.block_scales)
        assert not kept.block_scales[starts[-1] :].any()


LIE = {
    "behind each other": lambda: list(values(120, 48).split(40)),
    "anywhere": lambda: [values(40, 48, seed=seed) for seed in range(3)],
    "not at multiples of 16 bytes": lambda: [torch.cat([t.new_zeros(1), t.flatten()])[1:].view(40, 48) for t in
                                             (values(40, 48, seed=seed) for seed in range(3))],
    "transposed": lambda: [values(48, 40, seed=seed).t() for seed in range(3)],
}  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "weights"),
    [*(("hifp8:scale=tensor", weights) for weights in LIE.values()), ("mxfp4:round=stochastic", LIE["anywhere"])],
    ids=[*LIE, "anywhere, stochastic"],
)
def test_triton_reads_weights_where_they_lie(spec, weights, monkeypatch, same) -> None:
    weights = weights()
    both(monkeypatch, same, lambda: quantize_stack(weights, parse(spec), (1, 0), DRAWS))
    both(monkeypatch, same, lambda: quantize_stack(weights, parse(spec), (0,), DRAWS[:1]))


def with_bwd(spec: str, bwd: str) -> str:
    return f"{spec}{',' if ':' in spec else ':'}bwd={bwd}"


def step(layer, counts: tuple[int, ...], sizes: tuple[int, int], dtype: torch.dtype) -> list[Tensor]:
    """Output and gradients of layer(x, weights)."""
    generator = torch.Generator().manual_seed(1)
    n_in, n_out = sizes
    x, dy, *weights = (
        torch.randn(shape, generator=generator).to(dtype)
        for shape in ((sum(counts), n_in), (sum(counts), n_out), *((n_out, n_in),) * len(counts))
    )
    for tensor in (x, *weights):
        tensor.requires_grad_()
    y = layer(x, weights)
    y.backward(dy)
    return [y.detach(), x.grad, *(weight.grad for weight in weights)]


def loop(counts, spec):
    def layer(x, weights):
        parts = zip(x.split(counts), weights, strict=True)
        return torch.cat([quantized_linear(part, weight, None, spec) for part, weight in parts])

    return layer


SIZES = {
    "bf16": ((64, 96), torch.bfloat16),
    "fp32": ((64, 96), torch.float32),
    "rows that no grouped GEMM takes": ((70, 50), torch.bfloat16),
}


@pytest.mark.parametrize(
    ("spec", "counts", "sizes", "dtype"),
    [
        *((with_bwd(spec, bwd), COUNTS[UNEVEN], *SIZES["bf16"]) for spec in SPECS[::2] for bwd in BWD),
        *(("mxfp8", counts, *SIZES["bf16"]) for counts in COUNTS.values()),
        *(("mxfp8", COUNTS[name], *size) for name in (UNEVEN, "no rows") for size in list(SIZES.values())[1:]),
        ("none", COUNTS[UNEVEN], *SIZES["bf16"]),
    ],
)
def test_equals_the_loop(spec, counts, sizes, dtype, same) -> None:
    expected = step(loop(counts, spec), counts, sizes, dtype)
    for given in (list(counts), groups_of(counts, known=False)):
        actual = step(lambda x, weights, given=given: grouped_linear(x, weights, given, spec), counts, sizes, dtype)
        for a, e in zip(actual, expected, strict=True):
            same(a, e)


def saving(layer, counts: tuple[int, ...], dtype: torch.dtype) -> tuple[list[Tensor], int]:
    """Output and gradients of a step, and the bytes that were kept for its backward."""
    saved: list[Tensor] = []
    torch.manual_seed(0)

    def keep(tensor: Tensor) -> int:
        saved.append(tensor)
        return len(saved) - 1

    with saved_tensors_hooks(keep, saved.__getitem__):
        results = step(layer, counts, (70, 50), dtype)
    return results, sum(tensor.untyped_storage().nbytes() for tensor in saved)


@pytest.fixture
def calls():
    before = torch.get_rng_state()
    yield
    torch.set_rng_state(before)


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("bwd", BWD)
@pytest.mark.parametrize("spec", PACKED)
def test_an_input_is_kept_packed_and_the_gradients_are_the_same(spec, bwd, monkeypatch, same) -> None:
    counts, text, x_bytes = COUNTS[UNEVEN], with_bwd(spec, bwd), 130 * 70 * 2
    beside = 7 * 50 * 70 * 2 + 7 * 4  # the weights, and where groups end
    actual, bytes_ = saving(lambda x, weights: grouped_linear(x, weights, counts, text), counts, torch.bfloat16)
    elements, scales = PACKED[spec]
    kept = {"quantized": elements + scales[0], "dequantized": elements + scales[1], "high_precision": x_bytes}
    assert bytes_ == kept[bwd] + beside
    monkeypatch.setattr(grouped, "is_recorded", lambda ctx: False)
    expected, bytes_ = saving(lambda x, weights: grouped_linear(x, weights, counts, text), counts, torch.bfloat16)
    assert bytes_ == x_bytes + beside
    for a, e in zip(actual, expected, strict=True):
        same(a, e)


def test_of_an_input_nothing_is_kept_where_no_weight_gradient_follows() -> None:
    counts = COUNTS[UNEVEN]
    saved: list[Tensor] = []
    with saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        x = values(130, 70).requires_grad_()
        grouped_linear(x, [values(50, 70) for _ in counts], counts, "mxfp8")
    assert sum(tensor.nbytes for tensor in saved) == 7 * 50 * 70 * 2 + 7 * 4


def test_a_second_backward_gives_the_same_and_a_changed_input_changes_nothing() -> None:
    x, weights = values(40, 64), [values(32, 64, seed=seed).requires_grad_() for seed in range(2)]
    y = grouped_linear(x, weights, [31, 9], "mxfp4")
    first = torch.autograd.grad(y, weights, torch.ones_like(y), retain_graph=True)
    x.zero_()
    assert all(map(torch.equal, first, torch.autograd.grad(y, weights, torch.ones_like(y))))


@pytest.mark.parametrize("spec", ["mxfp8", "nvfp4:bwd=dequantized"])
def test_triton_gives_the_same_training_step(spec, monkeypatch, same) -> None:
    counts = COUNTS[UNEVEN]
    both(
        monkeypatch,
        same,
        lambda: step(lambda x, w: grouped_linear(x, w, counts, spec), counts, (40, 48), torch.bfloat16),
    )


def test_dequantized_backward_sees_the_forwards_stochastic_operands() -> None:
    """With identities as the other operands, each product shows its operand: X in Y and dW, W in Y and dX."""
    spec, eye = "mxfp4:round=stochastic,bwd=dequantized", torch.eye(32)
    data = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    x, weights = data.clone().requires_grad_(), [eye.clone().requires_grad_() for _ in range(2)]
    y = grouped_linear(x, weights, [32, 32], spec)
    y.backward(torch.cat([eye, eye]))
    assert torch.equal(torch.cat([weight.grad for weight in weights]), y)
    x = torch.cat([eye, eye]).requires_grad_()
    weights = [part.clone().requires_grad_() for part in data.split(32)]
    y = grouped_linear(x, weights, [32, 32], spec)
    y.backward(torch.cat([eye, eye]))
    assert torch.equal(x.grad, torch.cat([part.t() for part in y.split(32)]))


def test_a_call_counts_once_and_only_what_is_asked_for_is_computed() -> None:
    before = hits.snapshot().get("lm_head", {}).get("mxfp4", {})
    x, weights = torch.randn(8, 32, requires_grad=True), [torch.randn(16, 32) for _ in range(2)]
    grouped_linear(x, weights, [3, 5], "mxfp4", "lm_head").sum().backward()
    after = hits.snapshot()["lm_head"]["mxfp4"]
    assert {product: after[product] - before.get(product, 0) for product in after} == {"fprop": 1, "dgrad": 1}


@pytest.mark.parametrize("spec", ["mxfp8", "hifp8", "mxfp4:bwd=dequantized"])
def test_weights_are_quantized_once_a_step_if_asked(spec, monkeypatch, same) -> None:
    passes = []
    original = reuse.quantize_stack
    monkeypatch.setattr(reuse, "quantize_stack", lambda *a: passes.append(1) or original(*a))
    weights = [torch.nn.Parameter(torch.randn(48, 32)) for _ in range(2)]

    def train() -> list[Tensor]:
        gradients = []
        for batch in range(2):
            x = torch.randn(40, 32, generator=torch.Generator().manual_seed(batch), requires_grad=True)
            grouped_linear(x, weights, [31, 9], spec).square().sum().backward()
            gradients += [x.grad, *(weight.grad.clone() for weight in weights)]
            for weight in weights:
                weight.grad = None
        return gradients

    without = train()
    assert len(passes) == 4
    monkeypatch.setenv("QUANTCTL_WEIGHT_REUSE", "1")
    reuse.forget()
    for actual, expected in zip(train(), without, strict=True):
        same(actual, expected)
    assert len(passes) == 5
    with torch.no_grad():
        weights[1].neg_()  # not the one that the results are kept by
    train()
    assert len(passes) == 6
    assert reuse.nbytes() == (2 if spec == "mxfp8" else 1) * 2 * 48 * 32 * 4
    reuse.forget()


REFUSED = {
    "counts that do not add up": (lambda x, w: grouped_linear(x, w, [3, 4], "mxfp8"), "7 rows where the matrix has 8"),
    "a negative count": (lambda x, w: grouped_linear(x, w, [9, -1], "mxfp8"), "groups of 9, -1 rows"),
    "too few weights": (lambda x, w: grouped_linear(x, w[:1], [3, 5], "mxfp8"), "1 weights and 8 tokens"),
    "weights of several shapes": (lambda x, w: grouped_linear(x, [w[0], w[1][:8]], [3, 5], "mxfp8"), "differ in kind"),
    "an unknown spec": (lambda x, w: grouped_linear(x, w, [3, 5], "mxpf8"), "mxpf8"),
    "a transform that does not divide": (lambda x, w: grouped_linear(x, w, [3, 5], "mxfp8:fprop.hadamard=64"),
                                         "hadamard=64 does not divide the 32 in-features"),
    "a dtype of no format": (lambda x, w: grouped_linear(x.double(), [v.double() for v in w], [3, 5], "mxfp8"),
                             "float64"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(call, message) -> None:
    with pytest.raises(QuantctlError, match=message) as refusal:
        call(torch.randn(8, 32), [torch.randn(16, 32) for _ in range(2)])
    assert refusal.value.hint


@pytest.mark.parametrize("rows", [1, 5, 64, 100])
def test_there_are_tiles_for_every_distribution(rows) -> None:
    """The worst is one row in each group and the rest in one."""
    for groups in (1, 3, 64):
        counts = [1] * min(groups, rows) + [0] * max(0, groups - rows)
        counts[0] += rows - sum(counts)
        of_rows = Groups.of(counts, rows, torch.device("cpu"))
        assert of_rows.tile_ends(32)[-1] <= of_rows.tiles(32)


@pytest.mark.parametrize(("spec", "directions", "passes"), [("mxfp8", 2, 3), ("hifp8", 1, 2), ("nvfp4", 2, 4)])
def test_bytes_moved(spec, directions, passes) -> None:
    x = torch.empty(64, 96, dtype=torch.bfloat16)
    assert triton_grouped.bytes_moved(x, parse(spec), directions) == passes * 64 * 96 * 2
