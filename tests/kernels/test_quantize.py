"""What holds for every format: dtypes, shapes, strides, purity, graph capture, refusals."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from quantctl.errors import QuantctlError
from quantctl.kernels.formats.quantize import FORMATS, quantize_dequantize
from quantctl.kernels.philox import Draw
from quantctl.spec import FORMATS as SPEC_FORMATS
from quantctl.spec import parse

SPECS = [
    "mxfp8",
    "mxfp8:elem=e5m2,scale=floor,round=away",
    "mxfp6",
    "mxfp6:elem=e2m3,scale=even",
    "mxfp4",
    "mxfp4:round=stochastic",
    "nvfp4",
    "nvfp4:round=stochastic",
    "hifp8",
    "hifp8:scale=tensor",
    "hifp8:scale=tensor,round=stochastic",
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
DRAW = Draw(seed=1, call=2)

by_spec = pytest.mark.parametrize("spec", SPECS)
# NVFP4's values are multiples of an fp32 number: they are not exact in the dtype
by_exact_spec = pytest.mark.parametrize("spec", [spec for spec in SPECS if not spec.startswith("nvfp4")])
# the precision of HiFloat8 without a scale depends on the exponent
by_scaled_spec = pytest.mark.parametrize("spec", [spec for spec in SPECS if spec != "hifp8"])


def base() -> torch.Tensor:
    return torch.randn(8, 70, 66, generator=torch.Generator().manual_seed(0))


STRIDES = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.transpose(0, 2),
    "transposed twice": lambda x: x.transpose(0, 1).transpose(1, 2),
    "every second": lambda x: x[:, ::2, ::2],
    "slice with an offset": lambda x: x[1:, 3:, 5:],
    "expanded": lambda x: x[:1].expand(5, 70, 66),
    "one dimension": lambda x: x[0, :, 3],
    "one element": lambda x: x[0, 0, :1],
    "four dimensions": lambda x: x.unflatten(1, (7, 10)).permute(3, 0, 2, 1),
}

DENSE = {"contiguous", "transposed", "transposed twice", "four dimensions"}


def test_every_format_of_the_spec_has_a_kernel() -> None:
    assert set(FORMATS) == set(SPEC_FORMATS)


@by_spec
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("stride", STRIDES)
def test_strides_do_not_matter_and_the_input_is_not_written(spec, dtype, stride, same) -> None:
    whole = base().to(dtype)
    kept = whole.clone()
    x = STRIDES[stride](whole)
    for axis in range(-x.dim(), x.dim()):
        out = quantize_dequantize(x, spec, axis, rng=DRAW)
        same(out, quantize_dequantize(x.contiguous(), spec, axis, rng=DRAW))
        assert out.data_ptr() != whole.data_ptr()
        if stride in DENSE:
            assert out.stride() == x.stride()
    same(whole, kept)


@by_spec
@pytest.mark.parametrize("shape", [(0,), (0, 32), (32, 0), (3, 0, 5)], ids=str)
def test_empty_tensors(spec, shape) -> None:
    for axis in range(len(shape)):
        assert quantize_dequantize(torch.empty(shape, dtype=torch.bfloat16), spec, axis).shape == shape


@by_exact_spec
def test_quantizing_twice_changes_nothing(spec, same) -> None:
    for dtype in DTYPES:
        once = quantize_dequantize(base().to(dtype), spec)
        same(quantize_dequantize(once, spec), once)


@by_scaled_spec
def test_a_power_of_two_moves_through(spec, same) -> None:
    """Values of the same mantissas give the same codes."""
    x = base()
    moved = quantize_dequantize(x * 2.0**-40, spec, rng=DRAW)
    same(moved, quantize_dequantize(x, spec, rng=DRAW) * 2.0**-40)


@by_exact_spec
def test_half_precision_inputs_give_what_their_fp32_copies_give(spec, same) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        x = base().to(dtype)
        same(quantize_dequantize(x, spec, rng=DRAW).float(), quantize_dequantize(x.float(), spec, rng=DRAW))


def test_none_returns_the_tensor() -> None:
    x = base()
    assert quantize_dequantize(x, "none") is x
    assert quantize_dequantize(x, "bf16") is x


def test_a_spec_object_is_its_literal(same) -> None:
    same(quantize_dequantize(base(), parse("mxfp8:scale=even")), quantize_dequantize(base(), "mxfp8:scale=even"))


def test_the_result_is_outside_of_autograd() -> None:
    assert not quantize_dequantize(base().requires_grad_(), "mxfp8").requires_grad


@by_spec
def test_no_value_decides_a_shape(spec) -> None:
    """Under fake tensors, which have no values, anything data-dependent raises. Tables made before are real."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(4, 70, dtype=torch.bfloat16)
        for axis in (0, 1):
            out = quantize_dequantize(x, spec, axis, rng=DRAW)
            assert (out.shape, out.dtype) == (x.shape, x.dtype)


@pytest.mark.parametrize("spec", ["mxfp8", "mxfp6", "mxfp4", "nvfp4", "hifp8", "hifp8:scale=tensor"])
def test_captured_as_one_graph(spec, same) -> None:
    x = base()
    compiled = torch.compile(quantize_dequantize, backend="eager", fullgraph=True)
    same(compiled(x, parse(spec), -1), quantize_dequantize(x, spec))


@pytest.mark.parametrize("dtype", [torch.float64, torch.int32, torch.float8_e4m3fn], ids=str)
def test_other_dtypes_are_refused(dtype) -> None:
    with pytest.raises(QuantctlError, match=str(dtype)):
        quantize_dequantize(torch.zeros(32, dtype=dtype), "mxfp8")


@pytest.mark.parametrize("spec", ["mxfp9", "mxfp8:scale=tensor", "hifp8:elem=e4m3", ""])
def test_unknown_specs_are_refused(spec) -> None:
    with pytest.raises(QuantctlError, match="is not a format spec"):
        quantize_dequantize(base(), spec)
