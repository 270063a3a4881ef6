"""torchao's prototype MX as a second oracle: equal wherever it defines the same thing; where it does not, the
difference is asserted, so that a release that closes it is noticed."""

from __future__ import annotations

import pytest
import torch
from torchao.prototype.mx_formats.config import ScaleCalculationMode
from torchao.prototype.mx_formats.mx_tensor import MXTensor, to_dtype, to_mx
from torchao.quantization.quantize_.common.kernel_preference import KernelPreference

from quantctl.kernels.formats import mx, mxfp8
from quantctl.kernels.formats.quantize import quantize_dequantize
from quantctl.kernels.products.linear import quantized_linear

RULES = {rule: ScaleCalculationMode[rule.upper()] for rule in ("rceil", "floor", "even", "ceil")}
DTYPES = {
    "mxfp8:elem=e4m3": torch.float8_e4m3fn,
    "mxfp8:elem=e5m2": torch.float8_e5m2,
    "mxfp4:round=nearest": torch.float4_e2m1fn_x2,
}

by_format = pytest.mark.parametrize("spec", DTYPES)
by_rule = pytest.mark.parametrize("rule", RULES)


def torchao(x: torch.Tensor, spec: str, rule: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale bytes and dequantized values."""
    scale, data = to_mx(x, DTYPES[spec], 32, RULES[rule])
    return scale.view(torch.uint8), to_dtype(data, scale, DTYPES[spec], 32, x.dtype)


@by_format
@by_rule
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_values_equal_to_mx(spec, rule, dtype, same) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(512, 128, generator=generator) * 2.0 ** (20 * torch.randn(512, 1, generator=generator))
    x = x.to(dtype)
    x[3] = torch.nan
    scale, expected = torchao(x, spec, rule)
    assert scale[4:].min() > 0
    same(quantize_dequantize(x, f"{spec},scale={rule}"), expected)


@by_rule
def test_zero_blocks_have_scale_byte_zero(rule) -> None:
    scale, values = torchao(torch.zeros(1, 32), "mxfp8:elem=e4m3", rule)
    assert scale.item() == mx.shared_exponent(torch.zeros(()), mxfp8.E4M3, rule).item() + 127 == 0
    assert (values == 0).all()


@by_rule
def test_known_difference_a_block_with_inf_is_not_nan_there(rule) -> None:
    x = torch.ones(1, 32)
    x[0, 0] = torch.inf
    assert not torchao(x, "mxfp8:elem=e4m3", rule)[1].isnan().any()
    assert quantize_dequantize(x, f"mxfp8:scale={rule}").isnan().all()


@by_rule
def test_known_difference_values_under_scale_byte_zero_are_halved_or_lost_there(rule) -> None:
    """torchao divides by 2^-126 (rceil: by 1) where the scale is 2^-127; 2^-121 is exact in E4M3 under that scale."""
    x = torch.full((1, 32), 2.0**-121)
    scale, values = torchao(x, "mxfp8:elem=e4m3", rule)
    assert scale.item() == 0
    assert (values == (0.0 if rule == "rceil" else 2.0**-122)).all()
    assert (quantize_dequantize(x, f"mxfp8:scale={rule}") == x).all()


def test_known_difference_rceil_through_a_logarithm_misses_the_next_power_there() -> None:
    """One ulp above 448 * 2^50 needs the scale 2^51; log2 in fp32 rounds 50.0000001 to 50."""
    amax = torch.nextafter(torch.tensor(448.0 * 2.0**50), torch.tensor(torch.inf))
    assert torchao(amax.repeat(1, 32), "mxfp8:elem=e4m3", "rceil")[0].item() == 127 + 50
    assert mx.shared_exponent(amax, mxfp8.E4M3, "rceil").item() == 51


@by_format
@by_rule
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_the_three_products_equal_emulated_mx_mm(spec, rule, dtype) -> None:
    """Y, dX and dW with six quantizations; torchao gets each operand with its blocks on the last axis."""
    generator = torch.Generator().manual_seed(1)
    x, w, dy = (
        torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in ((96, 64), (128, 64), (96, 128))
    )

    def product(a: torch.Tensor, b_t: torch.Tensor) -> torch.Tensor:
        a_mx, b_mx = (
            MXTensor.to_mx(
                t.detach().contiguous(), DTYPES[spec], 32, RULES[rule], kernel_preference=KernelPreference.EMULATED
            )
            for t in (a, b_t)
        )
        return torch.mm(a_mx, b_mx.t())

    y = quantized_linear(x, w, None, f"{spec},scale={rule}")
    y.backward(dy)
    for actual, expected in (
        (y, product(x, w)),
        (x.grad, product(dy, w.t())),
        (w.grad, product(dy.t(), x.t())),
    ):
        assert (actual - expected).abs().max().item() == 0.0
