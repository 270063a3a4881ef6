"""Codes, scales and values that others' code gave for one tensor, as digests: nothing of theirs is needed to compare.

Transformer Engine's references gave those of NVFP4 and FP8 (transformer_engine/pytorch/custom_recipes, tests/pytorch/
references), torchao those of MXFP4 and of INT8's rows, Jetfire's code those of its squares, en_dtypes those of
HiFloat8, its authors' code those of HiFloat4.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from oracle_input import digest, made

from quantctl.kernels.formats.codes import decode, encode
from quantctl.kernels.formats.quantize import quantize_dequantize

NVFP4 = {
    # spec: codes and scales along the rows, then along the columns
    "": ("38a21c5b7843c8e3", "a6ff424d182c8442", "f47e078846fc140b", "f9bc4e93dff6714e"),
    "block=16x16": ("b057f533f0ef59b0", "afa1caa99c85f262", "5edcada2e36dd48c", "b899ce365cbfc85a"),
    "extent=row": ("d8a4e7df7df327b7", "4cc3352de0b16756", "04587afc1bc47846", "2aa160c16aef1700"),
    "scale=4over6": ("3f6cf69165352291", "ea7783c79c4c1941", "b824c0593cb4d8ea", "e356dda02b6b75be"),
    "scale=4over6_mse": ("0bb5d52fcb166db0", "581238bbd73543a7", "576094ac6ce7026e", "de0beb44c43ae498"),
    "hadamard=16,signs=fixed": (None, None, "ebec70884c5af5d3", "7ef6e2bb7ba849bf"),
}
FP8 = {
    "block=1x128,scale=pow2": ("0a34668ee9ee2876", "0655c377e0ff7b0d", "b5bc63a5ee80fd5f", "d7cb92d6921658fc"),
    "block=1x128": ("6de98f6f60bb509f", "537a207444cd5952", "19b8625c0a677bc5", "ad99ba7e65495f25"),
    "block=128x128,scale=pow2": ("947d7a91c795c3ab", "17c81c14ca1960c9", "bbf8a009ed484e39", "17c81c14ca1960c9"),
    "block=128x128": ("92daaeeb1fb8a64a", "c60bafffd1849acb", "cda673261ba2b3f3", "c60bafffd1849acb"),
    "elem=e4m3": ("92daaeeb1fb8a64a", None, None, None),
    "elem=e5m2": ("1f1d444387e9cb5f", None, None, None),
    "elem=e4m3,scale=pow2": ("947d7a91c795c3ab", None, None, None),
    "elem=e5m2,scale=pow2": ("0f8d5f50c49a2f20", None, None, None),
}
MXFP4 = {
    "scale=even": ("9579d0b3e585ec39", "f24a8e5acb37c779", None, None),
    "scale=rceil": ("ad84d962b5e06ac8", "5210e89d725cfc40", None, None),
    "scale=floor": ("8716df61339661c9", "b4c4b87b2e93ae80", None, None),
    "scale=even,hadamard=16,hadamard_out=fp32": (None, None, "ad90281e7d01b39b", "133f9b3610c1f968"),
}
CASES = [
    *((f"nvfp4:{'scale=multiply,' * ('scale' not in spec)}{spec}".rstrip(","), (64, 96), wanted)
      for spec, wanted in NVFP4.items()),
    *((f"fp8:{spec}", (200, 300), wanted) for spec, wanted in FP8.items()),
    *((f"mxfp4:{spec}", (64, 96), wanted) for spec, wanted in MXFP4.items()),
    ("mxfp8:block=32x32", (64, 96), ("96756a9c341d6af7", "f5f3b40552876b42", None, None)),
    ("int8", (64, 96), ("1a578e657f995fd3", None, None, None)),
    ("int8:block=32x32", (64, 128), ("b406a91188bc1363", None, None, None)),
    ("hifp8:scale=fp32", (64, 96), ("034d059952707098", None, None, None)),
    ("hifp8:scale=fp32,target=224", (64, 96), ("38f20ed49ba90dbf", None, None, None)),
]  # fmt: skip
ROWS_OF_SQUARES = {"nvfp4": 16, "mxfp8": 32}
"""Their references keep the scale of a square once for each of its rows."""


def test_the_input_is_the_one_that_they_got() -> None:
    x = made(64, 96)
    assert (digest(x), x.abs().max().item()) == ("8a73cd7d53b85bc3", 1.9921875)


@pytest.mark.parametrize(("spec", "size", "wanted"), CASES, ids=[case[0] for case in CASES])
def test_codes_and_scales(spec, size, wanted) -> None:
    x = made(*size)
    for axis, codes, scales in ((-1, *wanted[:2]), (0, *wanted[2:])):
        encoded = encode(x, spec, axis)
        assert codes in (None, digest(encoded.elements)), axis
        if scales is not None:
            found = encoded.block_scales
            times = ROWS_OF_SQUARES.get(encoded.spec.format, 1) if "x16" in spec or "x32" in spec else 1
            assert digest(found.repeat_interleave(times, 0) if "16x" in spec or "32x" in spec else found) == scales
        assert torch.equal(decode(encoded), quantize_dequantize(x, spec, axis))


@pytest.mark.parametrize(
    ("spec", "axis", "wanted"),
    [
        ("nvfp4:scale=multiply", -1, "1d972b2ab3c64813"),
        ("nvfp4:scale=multiply,block=16x16", -1, "5393df3bfcc2e20e"),
        ("nvfp4:scale=multiply,hadamard=16,signs=fixed", 0, "23167e56b65b548c"),
    ],
)
def test_values_of_nvfp4_in_fp32(spec, axis, wanted) -> None:
    values = decode(replace(encode(made(64, 96), spec, axis), dtype=torch.float32))
    assert digest(values if axis else values.t()) == wanted


@pytest.mark.parametrize(("target", "scale"), [("15", 0.1328125), ("224", 0.008893693797290325)])
def test_scale_of_hifloat8(target, scale) -> None:
    assert encode(made(64, 96), f"hifp8:scale=fp32,target={target}").tensor_scale.item() == scale


def test_int8_of_an_fp32_tensor() -> None:
    """Its scale is kept in the tensor's dtype."""
    assert digest(encode(made(64, 96).float(), "int8").elements) == "7db50855d3310e2f"


def test_values_of_hifloat4() -> None:
    values = quantize_dequantize(made(64, 128), "hifp4")
    assert (digest(values), values.float().sum().item()) == ("d416576ee872405d", -66.84375)
    assert quantize_dequantize(torch.ones(64), "hifp4").unique().tolist() == [0.9375]


def test_a_tie_of_the_block_scale() -> None:
    """amax 5.46875 of a block in a tensor of amax 12.25: to even from above or from below, by the order of products."""
    x = torch.zeros(2, 16)
    x[0, 0], x[1, 0] = 5.46875, 12.25
    scales = {
        rule: encode(x, f"nvfp4:scale={rule}").block_scales[0].item() for rule in ("divide", "multiply", "4over6")
    }
    assert scales["divide"] == 0x74  # 192
    assert scales["multiply"] == 0x75  # 208
