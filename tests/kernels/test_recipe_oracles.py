"""What published recipes compute, against others' code: Transformer Engine's references in plain Python, and torchao.

Tensors are random, heavy-tailed and made of edges; the difference is 0. Whole linear layers are compared with plain
products of operands that these alone have quantized; only stochastic rounding is emulated here, from its definition,
because no reference has it.
"""

from __future__ import annotations

import en_dtypes
import numpy
import pytest
import te_references
import torch
from torch import Tensor
from torchao.prototype.blockwise_fp8_training.kernels import (
    torch_blockwise_scale_act_quant_lhs,
    torch_blockwise_scale_act_quant_rhs,
    torch_blockwise_scale_weight_quant,
)
from torchao.prototype.mx_formats.config import ScaleCalculationMode
from torchao.prototype.mx_formats.mx_tensor import to_mx
from torchao.prototype.quantized_training.int8 import quantize_int8_rowwise
from torchao.prototype.spinquant.hadamard_utils import matmul_hadU_slow

from quantctl.kernels import philox
from quantctl.kernels.formats.codes import decode, encode
from quantctl.kernels.formats.hadamard import transformed
from quantctl.kernels.formats.quantize import quantize_dequantize
from quantctl.kernels.products.linear import quantized_linear
from quantctl.spec import parse
from quantctl.spec.recipes import RECIPES

ROWS, COLUMNS = 128, 256


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def _edges() -> Tensor:
    """Rows: zeros, a single value, powers of two, ties of the elements, very different magnitudes, the largest."""
    x = torch.randn(ROWS, COLUMNS, generator=_generator())
    x[0], x[1, :] = 0.0, 0.0
    x[1, 5] = -3.0
    x[2] = 2.0 ** torch.arange(COLUMNS).remainder(40).sub(20)
    x[3] = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0]).repeat(COLUMNS // 8)
    x[4, ::2] *= 1e-20
    x[5] *= 1e15
    x[6, :16], x[6, 16] = 5.46875, 12.25
    x[32:64, 64:96] = 0.0
    return x


TENSORS = {
    "random": torch.randn(ROWS, COLUMNS, generator=_generator()),
    "heavy": torch.randn(ROWS, COLUMNS, generator=_generator())
    * torch.randn(ROWS, COLUMNS, generator=_generator()).mul(3).exp(),
    "edges": _edges(),
}
tensors = pytest.mark.parametrize("x", TENSORS.values(), ids=TENSORS)
dtypes = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)


@pytest.fixture(scope="module")
def te():
    return te_references.load()


def _nvfp4(te, x: Tensor, **options) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, scale bytes, and values in fp32, along the last axis of x; with a transform, behind it."""
    module = te["reference_nvfp4"]
    transposed = options.get("with_rht", False)
    quantizer = module.NVFP4QuantizerRef(dtype=te["reference_utils"].Fp4Formats.E2M1, **options)
    found = quantizer.quantize(x.t().contiguous() if transposed else x)
    codes, scales = (found.data_t, found.scale_t) if transposed else (found.data, found.scale)
    amax = found.global_amax_col if transposed else found.global_amax_row
    limit = 2688.0 if not found.nvfp4_use_4over6 else 6.0 * found.nvfp4_e4m3_max
    factor = (scales.float() * amax.view(-1, 1)) * (1 / limit)
    values = module.cast_from_fp4x2(codes, torch.float32) * factor.repeat_interleave(16, 1)
    return codes, scales.view(torch.uint8), values


NVFP4 = {
    "scale=multiply": {},
    "scale=multiply,block=16x16": {"quant_tile_shape": (16, 16)},
    "scale=multiply,extent=row": {"row_scaled_nvfp4": True},
    "scale=multiply,hadamard=16,signs=fixed": {"with_rht": True},
    "scale=multiply,hadamard=16": {"with_rht": True, "with_random_sign_mask": False},
    "scale=4over6": {"nvfp4_use_4over6": True, "nvfp4_e4m3_max": 256},
    "scale=4over6_mse": {"nvfp4_use_4over6": True, "nvfp4_e4m3_max": 256, "nvfp4_4over6_err_mode": "MSE"},
    "scale=4over6,block=16x16": {"nvfp4_use_4over6": True, "nvfp4_e4m3_max": 256, "quant_tile_shape": (16, 16)},
    "scale=4over6,extent=row": {"nvfp4_use_4over6": True, "nvfp4_e4m3_max": 256, "row_scaled_nvfp4": True},
}


BITS = [
    # the reference's sums in fp32 have the library's order; behind a rounding to bf16 that is no matter
    (options, dtype)
    for options in NVFP4
    for dtype in (torch.bfloat16, torch.float32)
    if "hadamard" not in options or dtype == torch.bfloat16
]


@tensors
@pytest.mark.parametrize(("options", "dtype"), BITS, ids=str)
def test_nvfp4(options, x, dtype, te, same) -> None:
    x = x.to(dtype)
    codes, scales, values = _nvfp4(te, x, **NVFP4[options])
    ours = encode(x, f"nvfp4:{options}")
    every = 16 if "16x16" in options else 1
    assert torch.equal(ours.block_scales.repeat_interleave(every, 0), scales)
    assert torch.equal(ours.elements, codes)
    same(decode(ours).float(), values.to(dtype).float())
    same(quantize_dequantize(x, f"nvfp4:{options}").float(), values.to(dtype).float())


@tensors
@dtypes
@pytest.mark.parametrize("elem", ["e4m3", "e5m2"])
@pytest.mark.parametrize("pow2", [False, True])
def test_fp8_of_a_tensor(elem, pow2, x, dtype, te, same) -> None:
    x = x.to(dtype)
    of_torch = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}[elem]
    quantizer = te["reference_current_scaling"].CurrentScalingQuantizerRef(dtype=of_torch, pow_2_scales=pow2)
    found = quantizer.quantize(x)
    ours = encode(x, f"fp8:elem={elem},scale={'pow2' if pow2 else 'fp32'}")
    assert torch.equal(ours.elements, found.data.view(torch.uint8))
    assert torch.equal(ours.block_scales.flatten(), found.scale)
    same(decode(ours), quantizer.dequantize(found.data, found.scale, dtype))


FP8 = {
    "block=1x128": (-1, torch_blockwise_scale_act_quant_lhs, 1),
    "block=1x128, columns": (0, torch_blockwise_scale_act_quant_rhs, 0),
    "block=128x128": (-1, torch_blockwise_scale_weight_quant, None),
}


def _torchao(x: Tensor, case: str) -> Tensor:
    """x through FP8 by torchao, fp32."""
    _, quantize, along = FP8[case]
    data, scales = quantize(x.contiguous())
    factors = scales.contiguous()
    for axis in (0, 1):
        if along in (None, axis):
            factors = factors.repeat_interleave(128, axis)
    return data.float() * factors


@dtypes
@pytest.mark.parametrize("x", [TENSORS["random"], TENSORS["heavy"]], ids=["random", "heavy"])
@pytest.mark.parametrize("case", FP8)
def test_fp8_in_blocks(case, x, dtype, same) -> None:
    x = x.to(dtype)
    ours = quantize_dequantize(x, f"fp8:{case.partition(',')[0]}", FP8[case][0])
    same(ours.float(), _torchao(x.float(), case).to(dtype).float())


def _hadamard(x: Tensor, size: int) -> Tensor:
    """torchao's transform of each `size` neighbours along the last axis."""
    return matmul_hadU_slow(x.unflatten(-1, (-1, size)).contiguous(), torch.ones(1, 1), 1).flatten(-2)


@tensors
@pytest.mark.parametrize("size", [16, 64])
def test_the_transform_in_fp32(size, x, same) -> None:
    """torchao divides by sqrt(n), which is exact for these sizes."""
    same(transformed(x, parse(f"mxfp4:hadamard={size}"), 1, None), _hadamard(x, size))


@tensors
@dtypes
def test_the_operands_of_amds_wgrad(x, dtype) -> None:
    x = x.to(dtype)
    scales, codes = to_mx(_hadamard(x.float(), 16), torch.float4_e2m1fn_x2, 32, ScaleCalculationMode.EVEN)
    ours = encode(x, "mxfp4:scale=even,hadamard=16,hadamard_out=fp32")
    assert torch.equal(ours.elements, codes.view(torch.uint8))
    assert torch.equal(ours.block_scales, scales.view(torch.uint8))


@tensors
@dtypes
def test_int8_of_rows(x, dtype) -> None:
    x = x.to(dtype)
    codes, scales = quantize_int8_rowwise(x)
    rows = scales.float() >= 1e-12  # below that torchao's are not
    ours = encode(x, "int8")
    assert torch.equal(ours.elements.view(torch.int8)[rows], codes[rows])
    assert torch.equal(ours.block_scales.flatten(), scales.float())


@tensors
@pytest.mark.parametrize("target", ["15", "224"])
def test_hifloat8_under_a_scale(target, x) -> None:
    ours = encode(x, f"hifp8:scale=fp32,target={target}")
    scaled = (x / (x.abs().max() / torch.tensor(float(target)))).numpy()
    # their -0 is a code of its own; the format has one zero
    theirs = torch.from_numpy((scaled + 0.0).astype(en_dtypes.hifloat8).view(numpy.uint8))
    assert torch.equal(ours.elements, theirs)


def _layer(spec: str, seed: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """X, W, dY, and what the layer makes of them: Y, dX, dW."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(128, 256, generator=generator) * torch.randn(128, 256, generator=generator).exp()
    w, dy = torch.randn(128, 256, generator=generator) / 20, torch.randn(128, 128, generator=generator) * 1e-3
    x, w, dy = (t.to(dtype) for t in (x, w, dy))
    x.requires_grad_()
    w.requires_grad_()
    torch.manual_seed(seed)
    y = quantized_linear(x, w, None, spec)
    y.backward(dy)
    return x.detach(), w.detach(), dy, y.detach(), x.grad, w.grad


_GRID = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def _stochastic(te, x: Tensor, noise: Tensor, **options) -> Tensor:
    """NVFP4 along x's last axis by the reference's scales, its elements rounded to one of their two neighbours."""
    module = te["reference_nvfp4"]
    _, scales, _ = _nvfp4(te, x, **options)
    quantizer = module.NVFP4QuantizerRef(dtype=te["reference_utils"].Fp4Formats.E2M1, **options)
    x = quantizer._apply_rht(x).float()
    amax, b = x.abs().max(), scales.view(torch.float8_e4m3fn).float()
    encode_scale = torch.tensor(2688.0) / amax
    inverse = torch.tensor(1.0) / (b * (torch.tensor(1.0) / encode_scale))
    scaled = (x * inverse.repeat_interleave(16, 1)).clamp(-6, 6)
    at = torch.searchsorted(_GRID, scaled.abs(), right=True) - 1
    lower, upper = _GRID[at], _GRID[(at + 1).clamp_max(7)]
    up = (scaled.abs() - lower) / (upper - lower).clamp_min(0.5) >= noise + 2.0**-24
    factor = (b * amax) * (1 / 2688.0)
    return torch.where(up, upper, lower).copysign(scaled) * factor.repeat_interleave(16, 1)


def test_the_layer_of_te_nvfp4(te, same) -> None:
    bf16 = torch.bfloat16
    x, w, dy, y, dx, dw = _layer(RECIPES["te-nvfp4"].linear, 3, bf16)
    torch.manual_seed(3)
    noise = [philox.uniform(dy.shape, philox.next_draw(), dy.device) for _ in range(2)]  # of dgrad, then of wgrad
    weight = _nvfp4(te, w, quant_tile_shape=(16, 16))[2].to(bf16)
    same(y, torch.matmul(_nvfp4(te, x)[2].to(bf16), weight.t()))
    same(dx, _stochastic(te, dy, noise[0]).to(bf16).matmul(weight))
    grad = _stochastic(te, dy.t().contiguous(), noise[1].t(), with_rht=True).to(bf16)
    tokens = _nvfp4(te, x.t().contiguous(), with_rht=True)[2].to(bf16)
    same(dw, grad.t().contiguous().t().matmul(tokens.t().contiguous()))


@dtypes
def test_the_layer_of_deepseek_v3(dtype, same) -> None:
    x, w, dy, y, dx, dw = _layer(RECIPES["deepseek-v3"].linear, 4, dtype)

    def quantized(x: Tensor, case: str) -> Tensor:
        return _torchao(x.float(), case).to(dtype)

    weight = quantized(w, "block=128x128")
    same(y, torch.matmul(quantized(x, "block=1x128"), weight.t()))
    same(dx, quantized(dy, "block=1x128").matmul(weight))
    same(dw, quantized(dy, "block=1x128, columns").t().matmul(quantized(x, "block=1x128, columns")))
