"""HiFloat8 against en-dtypes, the format's code table, and the properties of its tensor scale."""

from __future__ import annotations

import json
from pathlib import Path

import en_dtypes
import numpy as np
import pytest
import torch

from quantctl.kernels.formats import hifp8
from quantctl.kernels.formats.quantize import quantize_dequantize

TABLE = [float(v) for v in json.loads((Path(__file__).parent / "data" / "hif8_table.json").read_text())["values"]]
FINITE = np.unique([v for v in TABLE if np.isfinite(v)])


def oracle(x: torch.Tensor) -> torch.Tensor:
    with np.errstate(invalid="ignore"):  # signalling NaN
        values = x.float().numpy().astype(en_dtypes.hifloat8).astype(np.float32)
    return torch.from_numpy(values).to(x.dtype)


def test_every_bf16_equals_en_dtypes(all_bf16, same) -> None:
    same(quantize_dequantize(all_bf16, "hifp8"), oracle(all_bf16))


def test_every_fp16_equals_en_dtypes(all_fp16, same) -> None:
    same(quantize_dequantize(all_fp16, "hifp8"), oracle(all_fp16))


def test_fp32_bit_patterns_equal_en_dtypes(random_bits, same) -> None:
    same(quantize_dequantize(random_bits, "hifp8"), oracle(random_bits))
    in_range = torch.randn(2**17, generator=torch.Generator().manual_seed(2)) * 2.0 ** torch.linspace(-26, 17, 2**17)
    same(quantize_dequantize(in_range, "hifp8"), oracle(in_range))


def test_the_values_are_those_of_the_code_table(all_bf16) -> None:
    assert len(FINITE) == 253
    out = quantize_dequantize(all_bf16, "hifp8").float()
    assert np.unique(out[out.isfinite()].numpy()).tolist() == FINITE.tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_the_code_table_is_a_fixed_point(dtype, same) -> None:
    x = torch.tensor(TABLE, dtype=dtype)
    assert x[x.isfinite()].float().tolist() == [v for v in TABLE if np.isfinite(v)]  # exact in the dtype
    same(quantize_dequantize(x, "hifp8"), x)


def test_midpoints_round_away_from_zero() -> None:
    positive = FINITE[FINITE >= 0]
    midpoints = torch.from_numpy((positive[:-1] + positive[1:]) / 2).float()
    below = torch.nextafter(midpoints, torch.tensor(0.0))
    for sign in (1, -1):
        assert (quantize_dequantize(sign * midpoints, "hifp8") * sign).tolist() == positive[1:].tolist()
        assert (quantize_dequantize(sign * below, "hifp8") * sign).tolist() == positive[:-1].tolist()


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (40959.996, 32768.0),
        (40960.0, np.inf),
        (-40960.0, -np.inf),
        (3e38, np.inf),
        (-np.inf, -np.inf),
        (2.0**-23, 2.0**-22),
        (np.nextafter(np.float32(2.0**-23), np.float32(0)), 0.0),
        (1e-45, 0.0),
    ],
)
def test_edges(x, expected) -> None:
    assert quantize_dequantize(torch.tensor([x], dtype=torch.float32), "hifp8").item() == expected


@pytest.mark.parametrize("spec", ["hifp8", "hifp8:scale=tensor", "hifp8:round=stochastic"])
def test_zero_has_no_sign_and_nan_stays(spec) -> None:
    out = quantize_dequantize(torch.tensor([-0.0, -1e-30, torch.nan, 1.0]), spec)
    assert not out[:2].signbit().any() or spec == "hifp8:scale=tensor"
    assert out[0] == 0
    assert not out[0].signbit()
    assert out[2].isnan()


def test_stochastic_overflow_follows_the_nearest_rule() -> None:
    x = torch.tensor([32768.0, 36000.0, 40959.0, 40960.0, torch.inf]).repeat(1000, 1)
    for row in quantize_dequantize(x, "hifp8:round=stochastic").unique(dim=0):
        assert row.tolist() == [32768.0, 32768.0, 32768.0, torch.inf, torch.inf]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_tensor_scale_moves_amax_to_the_top_full_precision_binade(dtype) -> None:
    for amax in (1e-6, 0.02, 1.0, 7.9, 8.0, 300.0, 60000.0):
        x = torch.linspace(-1, 1, 1001, dtype=torch.float64).mul(amax).to(dtype)
        scale = hifp8.tensor_scale(x.abs().max().float()).item()
        assert np.frexp(scale)[0] == 0.5
        assert 8 <= x.abs().max().item() / scale < 16


@pytest.mark.parametrize("exponent", [-100, -40, -1, 0, 5, 60])
def test_tensor_scale_makes_the_format_scale_invariant(exponent, same) -> None:
    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(3))
    moved = quantize_dequantize(x * 2.0**exponent, "hifp8:scale=tensor")
    same(moved, quantize_dequantize(x, "hifp8:scale=tensor") * 2.0**exponent)


def test_tensor_target_has_the_least_error_of_all_targets_on_normal_data() -> None:
    """The derivation of TENSOR_TARGET: one binade higher leaves full precision for amax, lower gains nothing."""
    x = torch.randn(512, 512, generator=torch.Generator().manual_seed(4))
    amax_exponent = int(np.floor(np.log2(x.abs().max().item())))

    def error(target: int) -> float:
        scale = 2.0 ** (amax_exponent - target)
        return ((quantize_dequantize(x / scale, "hifp8") * scale - x).double().square().mean()).item()

    errors = {target: error(target) for target in range(-6, 12)}
    best = min(errors.values())
    assert errors[hifp8.TENSOR_TARGET] < 1.01 * best
    assert errors[hifp8.TENSOR_TARGET + 2] > 1.5 * best
    actual = (quantize_dequantize(x, "hifp8:scale=tensor") - x).double().square().mean().item()
    assert actual == errors[hifp8.TENSOR_TARGET]


def test_tensor_scale_ignores_what_is_not_finite(same) -> None:
    x = torch.randn(100, generator=torch.Generator().manual_seed(5)) * 1e-5
    x[3], x[7], x[9] = torch.nan, torch.inf, -torch.inf
    finite = x.isfinite()
    out = quantize_dequantize(x, "hifp8:scale=tensor")
    assert out[3].isnan()
    assert out[[7, 9]].tolist() == [torch.inf, -torch.inf]
    same(out[finite], quantize_dequantize(x[finite], "hifp8:scale=tensor"))


@pytest.mark.parametrize("x", [[0.0, -0.0], [torch.inf, torch.nan], [65504.0, 1.0], [6e-8, -1.2e-7]], ids=str)
def test_tensor_scale_of_extreme_fp16(x, same) -> None:
    t = torch.tensor(x, dtype=torch.float16)
    same(quantize_dequantize(t, "hifp8:scale=tensor"), t.where(t != 0, 0.0))
