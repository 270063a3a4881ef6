"""Stochastic rounding: the generator's known answers, and that rounding is unbiased, reproducible and independent."""

from __future__ import annotations

import math

import en_dtypes
import ml_dtypes
import numpy as np
import pytest
import torch

from quantctl.kernels import philox
from quantctl.kernels.formats.quantize import quantize_dequantize
from quantctl.kernels.philox import Draw

SPECS = [
    "mxfp8:round=stochastic",
    "mxfp8:elem=e5m2,round=stochastic",
    "mxfp6:round=stochastic",
    "mxfp4:round=stochastic",
    "hifp8:round=stochastic",
]
by_spec = pytest.mark.parametrize("spec", SPECS)

FAILURE = 1e-12
"""Probability that a correct implementation breaks a bound below (the seeds are fixed, so it either does or not)."""


@pytest.fixture(autouse=True)
def _calls():
    before = torch.get_rng_state()
    yield
    torch.set_rng_state(before)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0] * 4, (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, (0xFFFFFFFF, 0xFFFFFFFF), [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            (0xA4093822, 0x299F31D0),
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
    ids=["zeros", "ones", "digits of pi"],
)
def test_philox_gives_the_known_answers_of_random123(counter, key, expected) -> None:
    words = philox.philox4x32([torch.tensor([word]) for word in counter], key)
    assert [word.item() for word in words] == expected


def test_noise_is_a_function_of_the_element_index() -> None:
    """Whatever the length or shape: element i always has the same noise."""
    draw, device = Draw(seed=2**63 + 5, call=2**33 + 1, rank=3), torch.device("cpu")
    long = philox.uniform(torch.Size([200_001]), draw, device)
    assert torch.equal(philox.uniform(torch.Size([7, 11]), draw, device).flatten(), long[:77])
    assert torch.equal(philox.uniform(torch.Size([70_000]), draw, device), long[:70_000])


@pytest.mark.parametrize(
    "change", [{"seed": 8}, {"call": 1}, {"rank": 1}, {"seed": 7 + 2**32}, {"call": 2**32}], ids=str
)
def test_every_part_of_a_draw_changes_the_noise(change) -> None:
    draws = [Draw(**({"seed": 7, "call": 0, "rank": 0} | part)) for part in ({}, change)]
    a, b = (philox.uniform(torch.Size([4096]), draw, torch.device("cpu")) for draw in draws)
    # the count of equal 24-bit values among 4096 independent pairs is Poisson(2^-12)
    assert (a == b).sum() <= 3
    # correlation of independent uniforms: standard deviation 1/64; 8 of them
    assert torch.corrcoef(torch.stack([a, b]))[0, 1].abs() < 8 / 64


def test_noise_is_uniform() -> None:
    noise = philox.uniform(torch.Size([2**20]), Draw(seed=3, call=0), torch.device("cpu"))
    assert noise.min() >= 0
    assert noise.max() < 1
    assert (noise * 2**24 % 1 == 0).all()
    counts = torch.histc(noise, bins=256, min=0, max=1).double()
    expected = 2**20 / 256
    chi2 = ((counts - expected) ** 2 / expected).sum().item()
    # chi-squared with 255 degrees of freedom: Laurent and Massart (2000), lemma 1
    t = math.log(1 / FAILURE)
    assert chi2 < 255 + 2 * math.sqrt(255 * t) + 2 * t


@by_spec
def test_rounding_is_unbiased(spec) -> None:
    """The mean of n roundings against the value, bounded by Hoeffding's inequality for a two-point variable."""
    n = 2**15
    values = torch.tensor([1.0, 1.03, -1.1, 0.7, 0.3, -0.26, 0.011, 1e-3, 2.6, -3.3, 5.9, 4.1])
    row = torch.cat([values, torch.full((1,), 6.0)])
    out = quantize_dequantize(row.repeat(n, 1), spec, rng=Draw(seed=11, call=0))[:, :-1].double()
    low, high = out.min(dim=0).values, out.max(dim=0).values
    assert ((low <= values) & (values <= high)).all()
    assert all(len(column.unique()) <= 2 for column in out.T)
    bound = (high - low) * math.sqrt(math.log(2 * len(values) / FAILURE) / (2 * n))
    assert ((out.mean(dim=0) - values.double()).abs() <= bound).all()


@pytest.mark.parametrize(
    ("spec", "element", "scale"),
    [
        ("mxfp8:round=stochastic", ml_dtypes.float8_e4m3fn, 2.0**-6),
        ("mxfp8:elem=e5m2,round=stochastic", ml_dtypes.float8_e5m2, 2.0**-13),
        ("mxfp6:elem=e2m3,round=stochastic", ml_dtypes.float6_e2m3fn, 1.0),
        ("mxfp4:round=stochastic", ml_dtypes.float4_e2m1fn, 1.0),
        ("hifp8:round=stochastic", en_dtypes.hifloat8, 1.0),
    ],
)
def test_rounding_is_unbiased_over_a_tensor(spec, element, scale) -> None:
    """With lower <= x <= upper from the table of codes, (rounded - x) / (upper - lower) has mean zero, a range of
    length 1 and is independent between elements: Hoeffding bounds the sum. The anchor 6 fixes each block's scale."""
    x = torch.randn(1024, 512, generator=torch.Generator().manual_seed(0)).clamp(-6, 6)
    x[:, ::32] = 6.0
    width = {ml_dtypes.float4_e2m1fn: 4, ml_dtypes.float6_e2m3fn: 6}.get(element, 8)
    codes = np.arange(2**width, dtype=np.uint8).view(element)
    values = codes.astype(np.float64)
    values = np.unique(values[np.isfinite(values)]) * scale
    exact = x.double().numpy()
    upper = np.searchsorted(values, exact)
    between = values[upper] != exact
    low, high, exact = values[upper - 1][between], values[upper][between], exact[between]
    rounded = quantize_dequantize(x, spec, rng=Draw(seed=5, call=9)).double().numpy()
    assert (rounded[~between] == values[upper][~between]).all()
    rounded = rounded[between]
    assert ((rounded == low) | (rounded == high)).all()
    n = len(exact)
    assert n > 400_000
    assert abs(((rounded - exact) / (high - low)).sum()) <= math.sqrt(n * math.log(2 / FAILURE) / 2)


@by_spec
def test_equal_draws_give_equal_results_and_others_do_not(spec) -> None:
    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    first = quantize_dequantize(x, spec, rng=Draw(1, 1))
    assert torch.equal(first, quantize_dequantize(x, spec, rng=Draw(1, 1)))
    assert not torch.equal(first, quantize_dequantize(x, spec, rng=Draw(1, 2)))
    assert not torch.equal(first, quantize_dequantize(x, spec, rng=Draw(2, 1)))


@by_spec
def test_a_run_is_reproducible_from_its_seed(spec) -> None:
    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))

    def run(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        drawn = [quantize_dequantize(x, spec) for _ in range(2)]
        middle.append(torch.get_rng_state())
        return [*drawn, quantize_dequantize(x, spec)]

    middle: list[torch.Tensor] = []
    first, again, other = run(1), run(1), run(2)
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])
    torch.set_rng_state(middle[0])
    assert torch.equal(quantize_dequantize(x, spec), first[2])  # a resumed run continues


def test_values_that_the_format_holds_are_never_moved() -> None:
    for spec in SPECS:
        x = quantize_dequantize(torch.randn(64, 64, generator=torch.Generator().manual_seed(0)), spec, rng=Draw(1, 1))
        assert torch.equal(quantize_dequantize(x, spec, rng=Draw(1, 5)), x)
