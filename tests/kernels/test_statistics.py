"""The statistics of a format equal a direct computation on the same tensor."""

from __future__ import annotations

import math

import pytest
import torch

from quantctl.kernels.formats.quantize import quantize_dequantize
from quantctl.kernels.measure.statistics import measure

SPECS = [
    "mxfp8",
    "mxfp8:scale=floor",
    "mxfp8:elem=e5m2",
    "mxfp6",
    "mxfp6:elem=e2m3",
    "mxfp4",
    "mxfp4:scale=floor",
    "mxfp4:scale=ceil",
    "nvfp4",
    "hifp8",
    "hifp8:scale=tensor",
]
# largest magnitude over the smallest scale that the spec allows a block of these elements
LARGEST = {"mxfp8": 448.0, "mxfp8:elem=e5m2": 57344.0, "mxfp6": 28.0, "mxfp6:elem=e2m3": 7.5, "mxfp4": 6.0}


def tensor(dtype: torch.dtype) -> torch.Tensor:
    """[48, 160]: six decades, an outlier, zeros."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(48, 160, generator=generator) * 10.0 ** torch.randint(-4, 2, (48, 160), generator=generator)
    x[3, :] = 0.0
    x[5, 7] = 3000.0
    return x.to(dtype)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
@pytest.mark.parametrize("spec", SPECS)
def test_figures_equal_a_direct_computation(spec: str, dtype: torch.dtype, axis: int) -> None:
    x = tensor(dtype)
    figures = measure(x, spec, axis).read()
    wide, quantized = x.double(), quantize_dequantize(x.float(), spec, axis).double()
    assert figures["amax"] == 3000.0 if dtype is torch.float32 else float(x.abs().max())
    nonzero = wide != 0
    assert figures["underflow"] == float((nonzero & (quantized == 0)).sum()) / float(nonzero.sum())
    # sums of n fp32 squares, pairwise: relative error below log2(n) * 2^-24, in dB times 10 / ln 10, for both
    bound = 2 * math.log2(x.numel()) * 2**-24 * 10 / math.log(10)
    expected = 10 * math.log10(float(wide.square().sum() / (wide - quantized).square().sum()))
    assert figures["sqnr"] == pytest.approx(expected, abs=bound + 2**-20)


@pytest.mark.parametrize("spec", ["mxfp8", "mxfp8:elem=e5m2", "mxfp6", "mxfp6:elem=e2m3", "mxfp4"])
@pytest.mark.parametrize("rule", ["rceil", "floor", "even", "ceil"])
def test_saturation_and_scales_of_mx(spec: str, rule: str) -> None:
    x = tensor(torch.float32)
    figures = measure(x, f"{spec},scale={rule}" if ":" in spec else f"{spec}:scale={rule}", 1).read()
    blocks = x.double().unflatten(1, (5, 32))
    amax = blocks.abs().amax(-1)
    emax = math.floor(math.log2(LARGEST[spec]))
    exponents = torch.floor(torch.log2(amax)) - emax
    largest = LARGEST[spec]
    if rule == "ceil":
        exponents = torch.ceil(torch.log2(amax)) - emax
    elif rule == "rceil":
        exponents = torch.ceil(torch.log2(amax / largest))
    elif rule == "even":
        # half a unit of the element's last place below the next power of two goes up
        ulp = {"mxfp8": 3, "mxfp8:elem=e5m2": 2, "mxfp6": 2, "mxfp6:elem=e2m3": 3, "mxfp4": 1}[spec]
        exponents = torch.floor(torch.log2(amax * (1 + 2.0 ** -(ulp + 1) / (2 - 2.0 ** -(ulp + 1))))) - emax
    exponents = exponents.masked_fill(amax == 0, -127).clamp(min=-127)
    counted: dict[str, int] = {}
    for exponent in exponents.flatten().tolist():
        counted[str(int(exponent))] = counted.get(str(int(exponent)), 0) + 1
    assert figures["scales"] == {key: counted[key] for key in sorted(counted, key=int)}
    above = blocks.abs() > largest * 2.0 ** exponents.unsqueeze(-1)
    assert figures["saturated"] == float(above.sum()) / x.numel()
    assert rule in ("floor", "even") or figures["saturated"] == 0


def test_what_overflows_hifloat8_is_saturated() -> None:
    x = torch.tensor([32768.0, 32769.0, 40960.0, -1e6, 1.0])
    assert measure(x, "hifp8", 0).read()["saturated"] == 3 / 5


@pytest.mark.parametrize("spec", ["mxfp4:round=stochastic", "hifp8:round=stochastic"])
def test_measuring_takes_no_draw_of_the_run(spec: str) -> None:
    before = torch.get_rng_state()
    first = measure(tensor(torch.bfloat16), spec, 0).read()
    assert torch.equal(torch.get_rng_state(), before)
    assert measure(tensor(torch.bfloat16), spec, 0).read() == first


def test_exact_tensors_have_no_error() -> None:
    figures = measure(torch.ones(4, 64), "mxfp4", 1).read()
    assert (figures["sqnr"], figures["underflow"], figures["saturated"]) == (math.inf, 0.0, 0.0)
    assert measure(torch.zeros(2, 32), "mxfp4", 1).read()["scales"] == {"-127": 2}


def test_x_is_not_written_to() -> None:
    x = tensor(torch.bfloat16)
    kept = x.clone()
    measure(x.t(), "nvfp4", 0)
    assert torch.equal(x, kept)
