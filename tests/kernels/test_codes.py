"""Codes: decoding gives quantize_dequantize in every bit, and the bytes are those of the formats' own tables."""

from __future__ import annotations

import json
from pathlib import Path

import en_dtypes
import ml_dtypes
import numpy as np
import pytest
import torch
from torchao.prototype.mx_formats.config import ScaleCalculationMode
from torchao.prototype.mx_formats.mx_tensor import to_mx

from quantctl.errors import QuantctlError
from quantctl.kernels.formats import hifp8
from quantctl.kernels.formats.codes import GROUPS, decode, encode, pack, unpack
from quantctl.kernels.formats.quantize import quantize_dequantize
from quantctl.kernels.philox import Draw

# spec -> bits of a code, elements a block scale
SPECS = {
    **{f"mxfp8:elem={e},scale={s}": (8, 32) for e in ("e4m3", "e5m2") for s in ("rceil", "floor", "even", "ceil")},
    **{f"mxfp6:elem={e},scale={s}": (6, 32) for e in ("e3m2", "e2m3") for s in ("rceil", "floor", "even", "ceil")},
    **{f"mxfp4:scale={s}": (4, 32) for s in ("rceil", "floor", "even", "ceil")},
    **{
        f"{f}:round={r}": (b, 32) for f, b in (("mxfp8", 8), ("mxfp6", 6), ("mxfp4", 4)) for r in ("stochastic", "away")
    },
    **{f"nvfp4:round={r}": (4, 16) for r in ("nearest", "stochastic", "away")},
    **{f"hifp8:scale={s},round={r}": (8, None) for s in ("none", "tensor") for r in ("nearest", "stochastic")},
}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
DRAW = Draw(seed=1, call=2)

by_spec = pytest.mark.parametrize("spec", SPECS)


@by_spec
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_decoding_gives_quantize_dequantize(spec, dtype, same) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 70, 41, generator=generator) * 2.0 ** (6 * torch.randn(3, 70, 1, generator=generator))
    x = x.to(dtype)
    x[0, 3, 3], x[0, 40, 20], x[1, 1, 1], x[2, 35] = torch.nan, torch.inf, -0.0, 0.0
    for tensor in (x, x.transpose(0, 2), x[1:, ::2]):
        for axis in range(3):
            encoded = encode(tensor, spec, axis, rng=DRAW)
            same(decode(encoded), quantize_dequantize(tensor, spec, axis, rng=DRAW))


@by_spec
def test_decoding_bit_patterns_gives_quantize_dequantize(spec, all_bf16, all_fp16, random_bits, same) -> None:
    for x in (all_bf16, all_fp16, random_bits[:65536]):
        rows = x.view(-1, 64)
        same(decode(encode(rows, spec, rng=DRAW)), quantize_dequantize(rows, spec, rng=DRAW))


@by_spec
@pytest.mark.parametrize("length", [1, 2, 3, 31, 33, 64])
def test_sizes(spec, length) -> None:
    bits, block = SPECS[spec]
    codes, width = GROUPS[bits]
    encoded = encode(torch.randn(5, length, 2), spec, 1)
    assert encoded.elements.shape == (5, 2, -(-length // codes) * width)
    assert encoded.elements.dtype == torch.uint8
    if block is None:
        assert encoded.block_scales is None
    else:
        assert encoded.block_scales.shape == (5, 2, -(-length // block))
        assert encoded.block_scales.dtype == torch.uint8
    assert (encoded.tensor_scale is not None) == (spec.startswith("nvfp4") or "scale=tensor" in spec)
    assert encoded.nbytes == sum(
        t.numel() * t.element_size()
        for t in (encoded.elements, encoded.block_scales, encoded.tensor_scale)
        if t is not None
    )


@by_spec
@pytest.mark.parametrize("shape", [(0,), (0, 32), (32, 0)], ids=str)
def test_empty_tensors(spec, shape) -> None:
    for axis in range(len(shape)):
        assert decode(encode(torch.empty(shape, dtype=torch.bfloat16), spec, axis)).shape == shape


@pytest.mark.parametrize("bits", GROUPS)
@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 5, 8])
def test_packing_loses_nothing(bits, length) -> None:
    codes = torch.randint(2**bits, (7, length), generator=torch.Generator().manual_seed(bits)).to(torch.uint8)
    assert torch.equal(unpack(pack(codes, bits), bits, length), codes)


def test_the_first_code_lies_in_the_lowest_bits() -> None:
    assert pack(torch.tensor([0x1, 0x2, 0x3], dtype=torch.uint8), 4).tolist() == [0x21, 0x03]
    six = [0b000001, 0b000010, 0b000100, 0b111000]
    word = sum(code << (6 * i) for i, code in enumerate(six))
    assert pack(torch.tensor(six, dtype=torch.uint8), 6).tolist() == list(word.to_bytes(3, "little"))


@pytest.mark.parametrize(
    ("spec", "dtype"), [("mxfp8", torch.float8_e4m3fn), ("mxfp8:elem=e5m2", torch.float8_e5m2)], ids=str
)
def test_mxfp8_bytes_are_those_of_torchao(spec, dtype) -> None:
    x = torch.randn(64, 128, generator=torch.Generator().manual_seed(1))
    scales, elements = to_mx(x, dtype, 32, ScaleCalculationMode.RCEIL)
    encoded = encode(x, spec)
    assert torch.equal(encoded.block_scales, scales.view(torch.uint8))
    assert torch.equal(encoded.elements, elements.view(torch.uint8))


def test_mxfp4_bytes_are_those_of_torchao() -> None:
    x = torch.randn(64, 128, generator=torch.Generator().manual_seed(2))
    scales, elements = to_mx(x, torch.float4_e2m1fn_x2, 32, ScaleCalculationMode.RCEIL)
    encoded = encode(x, "mxfp4")
    assert torch.equal(encoded.block_scales, scales.view(torch.uint8))
    assert torch.equal(encoded.elements, elements.view(torch.uint8))


@pytest.mark.parametrize(("elem", "dtype"), [("e3m2", ml_dtypes.float6_e3m2fn), ("e2m3", ml_dtypes.float6_e2m3fn)])
def test_mxfp6_codes_are_those_of_ml_dtypes(elem, dtype) -> None:
    largest = float(ml_dtypes.finfo(dtype).max)
    x = torch.randn(64, 32, generator=torch.Generator().manual_seed(3)).clamp(-largest, largest)
    x[:, 0] = largest  # the block scale is 1
    codes = unpack(encode(x, f"mxfp6:elem={elem}").elements, 6, 32)
    assert codes.tolist() == x.numpy().astype(dtype).view(np.uint8).tolist()


def test_hifp8_codes_are_those_of_the_table_and_of_en_dtypes(all_bf16) -> None:
    values = json.loads((Path(__file__).parent / "data" / "hif8_table.json").read_text())["values"]
    table = torch.tensor([float(v) for v in values])
    assert encode(table, "hifp8").elements.tolist() == list(range(256))
    assert len(hifp8.MAGNITUDES) == 128
    with np.errstate(invalid="ignore"):
        expected = all_bf16.float().numpy().astype(en_dtypes.hifloat8).view(np.uint8)
    actual = encode(all_bf16, "hifp8").elements.numpy()
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(
    ("spec", "x", "byte"),
    [
        ("mxfp8", [0.0, -0.0], 0),
        ("mxfp8", [448.0, 1.0], 127),
        ("mxfp8", [torch.inf, 1.0], 0xFF),
        ("mxfp6", [torch.nan, 1.0], 0xFF),
        ("mxfp4", [3.0, 1.0], 126),
        ("nvfp4", [2688.0, 1.0], 0x7E),
        ("nvfp4", [0.0, 0.0], 0),
        ("nvfp4", [torch.nan, 1.0], 0x7F),
    ],
    ids=str,
)
def test_scale_bytes(spec, x, byte) -> None:
    assert encode(torch.tensor(x), spec).block_scales.tolist() == [byte]


@pytest.mark.parametrize(
    ("x", "code"), [(0.0, 0x00), (-0.0, 0x00), (torch.nan, 0x80), (torch.inf, 0x6F), (-torch.inf, 0xEF), (1.0, 0x08)]
)
def test_hifp8_codes_of_special_values(x, code) -> None:
    assert encode(torch.tensor([x]), "hifp8").elements.tolist() == [code]


@pytest.mark.parametrize(("spec", "dtype"), [("none", torch.float32), ("mxfp8", torch.float64)], ids=str)
def test_what_has_no_codes_is_refused(spec, dtype) -> None:
    with pytest.raises(QuantctlError, match="cannot quantize"):
        encode(torch.zeros(32, dtype=dtype), spec)


@pytest.mark.parametrize("shape", [(0, 32), (32, 0), (0,)], ids=str)
@pytest.mark.parametrize(
    "text",
    ["fp8", "fp8:block=row", "fp8:block=128x128", "int8:block=tensor", "nvfp4:extent=row", "hifp4", "hifp8:scale=fp32"],
)
def test_nothing_to_encode(text, shape) -> None:
    """As an expert without tokens has it."""
    for axis in range(len(shape)):
        assert decode(encode(torch.empty(shape), text, axis)).shape == shape
