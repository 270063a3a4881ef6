"""NVFP4 against a second derivation in numpy (conftest) and against torchao, whose rule differs in the last bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale

from quantctl.kernels.formats import nvfp4
from quantctl.kernels.formats.codes import encode, unpack
from quantctl.kernels.formats.quantize import quantize_dequantize
from quantctl.kernels.formats.rounding import finite_amax
from quantctl.kernels.philox import Draw

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@by_dtype
@pytest.mark.parametrize("spread", [0, 4, 40], ids="spread={}".format)
def test_tensors_equal_the_emulation(dtype, spread, emulate, same) -> None:
    x = (normal(96, 96) * 2.0 ** (normal(96, 96, seed=1) * spread)).clamp(-1e38, 1e38).to(dtype)
    for axis in (0, 1):
        same(quantize_dequantize(x, "nvfp4", axis), emulate(x, "nvfp4", axis))


def test_all_bit_patterns_equal_the_emulation(all_bf16, all_fp16, random_bits, emulate, same) -> None:
    for x in (all_bf16, all_fp16, random_bits, random_bits[random_bits.abs() < 1e-30]):
        for largest in (torch.inf, 1.0, 1e-6):  # the largest finite number is the tensor scale's
            rows = x[~(x.abs() > largest)]
            rows = rows[: len(rows) // 16 * 16].view(-1, 16)
            same(quantize_dequantize(rows, "nvfp4"), emulate(rows, "nvfp4"))


@pytest.mark.parametrize("length", [1, 15, 16, 17, 33])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_tail_is_a_short_block(length, axis, emulate, same) -> None:
    shape = [3, 4, 5]
    shape[axis] = length
    x = normal(*shape, seed=length)
    same(quantize_dequantize(x, "nvfp4", axis), emulate(x, "nvfp4", axis))


@by_dtype
def test_special_blocks(dtype, same) -> None:
    x = torch.ones(5, 32, dtype=dtype)
    x[0, 3], x[1, 3], x[2, 3] = torch.nan, torch.inf, -torch.inf
    x[3, :16] = 0.0
    x[4, 3] = -0.0
    out = quantize_dequantize(x, "nvfp4")
    assert out[:3, :16].isnan().all()
    assert out[:3, 16:].isfinite().all()
    assert (out[3, :16] == 0).all()
    assert out[4, 3].signbit()


def test_zeros_keep_their_signs() -> None:
    out = quantize_dequantize(torch.tensor([[0.0, -0.0], [0.0, 0.0], [-0.0, -0.0], [1.0, -0.0]]), "nvfp4")
    assert out.signbit().tolist() == [[False, True], [False, False], [True, True], [False, True]]


@pytest.mark.parametrize("x", [[0.0] * 16, [torch.nan, torch.inf], []], ids=["zeros", "nothing finite", "empty"])
def test_scales_without_a_largest_magnitude(x) -> None:
    assert [s.item() for s in nvfp4.tensor_scales(finite_amax(torch.tensor(x)))] == [1.0, 1.0]


@pytest.mark.parametrize("amax", [1e-45, 1e-38, 1e-35, 1e-20, 1.0, 448.0 * 6, 1e30, 3.4e38])
def test_the_largest_magnitude_stays_within_an_eighth(amax) -> None:
    """Its block scale rounds to E4M3 within 2^-4, its element within a quarter of six; subnormals lose more."""
    out = quantize_dequantize(torch.tensor([amax, -amax / 2]), "nvfp4")
    assert out.isfinite().all()
    decode = nvfp4.tensor_scales(torch.tensor(amax))[1]
    assert decode >= torch.finfo(torch.float32).tiny
    if amax > 1e-33:
        assert abs(out[0].item() / amax - 1) < 1 / 8


def test_stochastic_rounding_keeps_scales_and_takes_neighbours() -> None:
    x = normal(64, 64)
    for call in range(3):
        rounded = encode(x, "nvfp4:round=stochastic", rng=Draw(1, call))
        nearest = encode(x, "nvfp4")
        assert torch.equal(rounded.block_scales, nearest.block_scales)
        down, up = (unpack(e.elements, 4, 64).int() & 7 for e in (rounded, nearest))
        assert ((down - up).abs() <= 1).all()
        assert not torch.equal(down, up)


def torchao(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    scale = per_tensor_amax_to_scale(x.abs().amax())
    tensor = NVFP4Tensor.to_nvfp4(x, per_tensor_scale=scale)
    return tensor.qdata, tensor.scale.view(torch.uint8), tensor.dequantize(x.dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("exponent", [-20, 0, 10])
def test_equal_to_torchao_where_the_tensor_scale_is_a_power_of_two(dtype, exponent, same) -> None:
    """Then s_enc, s_dec and their products are exact in both orders of operation."""
    x = (normal(128, 256) * 2.0 ** (2 * normal(128, 1, seed=1))).to(dtype).clamp(-2000, 2000)
    x[0, 0] = 2688.0
    x *= 2.0**exponent
    elements, scales, values = torchao(x)
    ours = encode(x, "nvfp4")
    normal_scales = ours.block_scales >= 8
    assert normal_scales.float().mean() > 0.9
    assert torch.equal(ours.block_scales[normal_scales], scales[normal_scales])
    rows = normal_scales.repeat_interleave(8, dim=1)
    assert torch.equal(ours.elements[rows], elements[rows])
    rows = normal_scales.repeat_interleave(16, dim=1)
    same(quantize_dequantize(x, "nvfp4")[rows], values[rows])


def test_known_difference_torchao_has_no_subnormal_block_scales() -> None:
    x = torch.full((1, 32), 2688.0)
    x[0, 16:] = 6 * 2.0**-8  # a block scale of 2^-8, which E4M3 holds as a subnormal
    _, scales, _ = torchao(x)
    assert scales[0, 1] == 8  # 2^-6 there
    assert encode(x, "nvfp4").block_scales[0, 1] == 2
    assert (quantize_dequantize(x, "nvfp4")[0, 16:] == x[0, 16:]).all()


def test_known_difference_torchao_rounds_in_another_order() -> None:
    """amax / 2688 there, 1 / (2688 / amax) in the recipe: the scales are one ulp apart or equal, values follow them."""
    x = normal(64, 256, seed=3)
    _, scales, values = torchao(x)
    ours = quantize_dequantize(x, "nvfp4")
    assert torch.equal(encode(x, "nvfp4").block_scales, scales)
    np.testing.assert_allclose(ours.numpy(), values.numpy(), rtol=3 * 2.0**-23, atol=0)
