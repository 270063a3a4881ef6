"""MX formats: elements against ml_dtypes, block scales against exact arithmetic, whole tensors against an emulation."""

from __future__ import annotations

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
import torch

from quantctl.kernels.formats import mx, mxfp4, mxfp6, mxfp8
from quantctl.kernels.formats.quantize import quantize_dequantize

# name -> the element, its oracle, the beginning of a spec that takes it; a new MX format is new lines here
TABLE = {
    "e4m3": (mxfp8.E4M3, ml_dtypes.float8_e4m3fn, "mxfp8:elem=e4m3,"),
    "e5m2": (mxfp8.E5M2, ml_dtypes.float8_e5m2, "mxfp8:elem=e5m2,"),
    "e3m2": (mxfp6.E3M2, ml_dtypes.float6_e3m2fn, "mxfp6:elem=e3m2,"),
    "e2m3": (mxfp6.E2M3, ml_dtypes.float6_e2m3fn, "mxfp6:elem=e2m3,"),
    "e2m1": (mxfp4.E2M1, ml_dtypes.float4_e2m1fn, "mxfp4:"),
}
ELEMENTS, NUMPY, SPECS = ({name: row[i] for name, row in TABLE.items()} for i in range(3))
RULES = ("rceil", "floor", "even", "ceil")

by_element = pytest.mark.parametrize("element", ELEMENTS)
by_rule = pytest.mark.parametrize("rule", RULES)


def under_unit_scale(x: torch.Tensor, element: str, how: str = "round=nearest") -> torch.Tensor:
    """Each value of x, no larger than the element's largest number, quantized in a block whose scale is 1."""
    rows = torch.full((x.numel(), 32), ELEMENTS[element].largest, dtype=x.dtype)
    rows[:, 5] = x
    return quantize_dequantize(rows, SPECS[element] + how)[:, 5]


def element_values(element: str) -> np.ndarray:
    """All finite values >= 0 of an element type, ascending, float64."""
    codes = np.arange(2 ** ELEMENTS[element].bits, dtype=np.uint8)
    values = codes.view(NUMPY[element]).astype(np.float64)
    return np.unique(values[np.isfinite(values) & (values >= 0)])


@by_element
def test_every_code_has_the_value_that_ml_dtypes_gives_it(element) -> None:
    codes = np.arange(2 ** ELEMENTS[element].bits, dtype=np.uint8)
    expected = codes.view(NUMPY[element]).astype(np.float32)
    actual = ELEMENTS[element].values(torch.empty(0)).numpy()
    np.testing.assert_array_equal(actual, expected)
    finite = np.isfinite(expected)
    assert ELEMENTS[element].codes(torch.from_numpy(expected[finite])).tolist() == codes[finite].tolist()


@by_element
def test_elements_equal_ml_dtypes_for_every_bf16_in_range(element, all_bf16, same) -> None:
    x = all_bf16[all_bf16.abs() <= ELEMENTS[element].largest]
    assert len(x) > 30000
    expected = torch.from_numpy(x.float().numpy().astype(NUMPY[element]).astype(np.float32))
    same(under_unit_scale(x, element), expected.bfloat16())


@by_element
def test_elements_equal_ml_dtypes_for_fp32_bit_patterns_in_range(element, random_bits, same) -> None:
    x = random_bits[random_bits.abs() <= ELEMENTS[element].largest]
    assert len(x) > 100_000
    same(under_unit_scale(x, element), torch.from_numpy(x.numpy().astype(NUMPY[element]).astype(np.float32)))


@by_element
def test_round_away_takes_the_larger_neighbour_on_a_tie(element, all_bf16, same) -> None:
    x = all_bf16[all_bf16.abs() <= ELEMENTS[element].largest].float()
    just_below_ties = torch.tensor([0.5 - 2.0**-25, 0.25 - 2.0**-26, 2.5 - 2.0**-22]) * 2.0 ** (
        ELEMENTS[element].min_exponent - ELEMENTS[element].mantissa_bits
    )
    x = torch.cat([x, just_below_ties, -just_below_ties])
    values = element_values(element)
    magnitude = x.abs().double().numpy()
    upper = np.searchsorted(values, magnitude)
    lower = np.maximum(upper - 1, 0)
    nearest = np.where(magnitude - values[lower] < values[upper] - magnitude, values[lower], values[upper])
    expected = torch.from_numpy(np.copysign(nearest, x.numpy())).float()
    same(under_unit_scale(x, element, "round=away"), expected)


@by_element
@by_rule
def test_shared_exponent_of_every_bf16(element, rule, all_bf16, mx_scale) -> None:
    amax = all_bf16[(all_bf16 > 0) & all_bf16.isfinite()].float()
    actual = mx.shared_exponent(amax, ELEMENTS[element], rule)
    expected = np.log2(mx_scale(amax.double().numpy(), element, rule))  # exact: powers of two
    assert actual.tolist() == expected.astype(int).tolist()


@by_element
def test_rceil_is_the_smallest_power_of_two_without_clipping(element, random_bits) -> None:
    """In rational arithmetic, at the largest number times every power of two and its two neighbours, and at random."""
    edges = ELEMENTS[element].largest * 2.0 ** torch.arange(-134.0, 112.0)
    up, down = (torch.nextafter(edges, torch.tensor(end)) for end in (torch.inf, 0.0))
    amax = torch.cat([edges, up, down, random_bits[:5000].abs()])
    amax = amax[amax.isfinite() & (amax > 0)]
    largest = Fraction(ELEMENTS[element].largest)
    for value, exponent in zip(
        amax.tolist(), mx.shared_exponent(amax, ELEMENTS[element], "rceil").tolist(), strict=True
    ):
        assert Fraction(value) <= largest * Fraction(2) ** exponent, value
        if exponent > -127:
            assert Fraction(value) > largest * Fraction(2) ** (exponent - 1), value


@pytest.mark.parametrize(
    ("rule", "amax", "exponent"),
    [
        ("floor", 448.0, 0),
        ("floor", 511.9, 0),
        ("floor", 512.0, 1),
        ("rceil", 448.0, 0),
        ("rceil", 448.00003, 1),
        ("ceil", 256.0, 0),
        ("ceil", 256.00003, 1),
        ("even", 495.9, 0),
        ("even", 496.0, 1),
        ("rceil", 0.0, -127),
        ("rceil", 2.0**-149, -127),
        ("floor", 3.3895314e38, 119),
        ("rceil", 3.3895314e38, 120),
    ],
)
def test_shared_exponent_of_e4m3(rule, amax, exponent) -> None:
    assert mx.shared_exponent(torch.tensor(amax), mxfp8.E4M3, rule).item() == exponent


@by_element
@by_rule
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("spread", [0, 4, 40], ids="spread={}".format)
def test_tensors_equal_the_emulation(element, rule, dtype, spread, emulate, same) -> None:
    generator = torch.Generator().manual_seed(spread)
    x = torch.randn(96, 96, generator=generator) * 2.0 ** (torch.randn(96, 96, generator=generator) * spread)
    x = x.to(dtype)
    spec = f"{SPECS[element]}scale={rule}"
    for axis in (0, 1, -1):
        same(quantize_dequantize(x, spec, axis), emulate(x, spec, axis))


@by_element
@by_rule
def test_all_bit_patterns_equal_the_emulation(element, rule, all_bf16, all_fp16, random_bits, emulate, same) -> None:
    """Blocks of neighbouring values: subnormals, NaN, Inf, the top binade; and blocks that mix all exponents."""
    spec = f"{SPECS[element]}scale={rule}"
    for x in (all_bf16, all_fp16, random_bits, random_bits[random_bits.abs() < 1e-30]):
        rows = x[: len(x) // 32 * 32].view(-1, 32)
        same(quantize_dequantize(rows, spec), emulate(rows, spec))


@by_element
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_special_blocks(element, dtype) -> None:
    x = torch.ones(5, 64, dtype=dtype)
    x[0, 3], x[1, 3], x[2, 3] = torch.nan, torch.inf, -torch.inf
    x[3, :32] = 0.0
    x[4, 3] = -0.0
    out = quantize_dequantize(x, SPECS[element] + "round=nearest")
    assert out[:3, :32].isnan().all()
    assert (out[:3, 32:] == 1).all()
    assert (out[3, :32] == 0).all()
    assert out[4, 3].signbit()
    assert (out[4].abs() == x[4].abs()).all()


@pytest.mark.parametrize(
    ("element", "amax", "clipped", "ml_dtypes"),
    [
        ("e4m3", 511.0, 448.0, np.nan),
        ("e5m2", 65000.0, 57344.0, np.inf),
        ("e3m2", 31.9, 28.0, 28.0),
        ("e2m3", 7.99, 7.5, 7.5),
        ("e2m1", 7.9, 6.0, 6.0),
    ],
)
def test_floor_saturates_also_where_ml_dtypes_overflows(element, amax, clipped, ml_dtypes) -> None:
    x = torch.tensor([amax, -amax])
    assert quantize_dequantize(x, f"{SPECS[element]}scale=floor").tolist() == [clipped, -clipped]
    np.testing.assert_equal(np.float32(amax).astype(NUMPY[element]).astype(np.float32), np.float32(ml_dtypes))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_products_above_the_dtype_become_its_largest_number(dtype) -> None:
    """The largest number of each dtype rounds up to a power of two that the dtype does not have."""
    largest = torch.finfo(dtype).max
    assert quantize_dequantize(torch.tensor([largest, -largest], dtype=dtype), "mxfp8").tolist() == [largest, -largest]


@pytest.mark.parametrize("length", [1, 31, 32, 33, 63, 64, 65])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("spec", ["mxfp8", "mxfp4:scale=floor"])
def test_a_tail_is_a_short_block(length, axis, spec, emulate, same) -> None:
    shape = [3, 4, 5]
    shape[axis] = length
    x = torch.randn(shape, generator=torch.Generator().manual_seed(length)) * 100
    whole = length // 32 * 32
    out = quantize_dequantize(x, spec, axis)
    same(out, emulate(x, spec, axis))
    if whole < length:  # what is in the tail is independent of the blocks before it
        tail = x.narrow(axis, whole, length - whole)
        same(out.narrow(axis, whole, length - whole), quantize_dequantize(tail, spec, axis))


def test_a_zero_block_stays_zero_where_subnormals_are_flushed() -> None:
    assert torch.set_flush_denormal(True)
    try:
        for spec in ("mxfp8", "mxfp8:elem=e5m2", "mxfp6", "mxfp4", "nvfp4"):
            assert (quantize_dequantize(torch.zeros(2, 32), spec) == 0).all()
    finally:
        torch.set_flush_denormal(False)
