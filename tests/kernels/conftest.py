"""An emulation of the formats that shares nothing with quantctl.kernels: numpy in float64 on padded rows, frexp for
exponents, ml_dtypes and en-dtypes for the elements."""

from __future__ import annotations

import os
from collections.abc import Callable

import en_dtypes
import ml_dtypes
import numpy as np
import pytest
import torch
from torch import Tensor

from quantctl.spec import FormatSpec, parse

# QUANTCTL_TEST_DEVICE=cuda has test_triton.py run the compiled kernels; all other tests want the interpreter
if os.environ.get("QUANTCTL_TEST_DEVICE", "cpu") == "cpu":
    # read when Triton is imported, which nothing does before a kernel is asked for
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True)
def _reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference is what oracles judge; a test of other kernels asks for them."""
    if os.environ.get("QUANTCTL_TEST_DEVICE", "cpu") == "cpu":
        monkeypatch.setenv("QUANTCTL_KERNELS", "reference")


# element -> (numpy dtype, exponent of the largest number, largest number, mantissa bits)
ELEMENTS = {
    "e4m3": (ml_dtypes.float8_e4m3fn, 8, 448.0, 3),
    "e5m2": (ml_dtypes.float8_e5m2, 15, 57344.0, 2),
    "e3m2": (ml_dtypes.float6_e3m2fn, 4, 28.0, 2),
    "e2m3": (ml_dtypes.float6_e2m3fn, 2, 7.5, 3),
    "e2m1": (ml_dtypes.float4_e2m1fn, 2, 6.0, 1),
}


def mx_scale(amax: np.ndarray, element: str, rule: str) -> np.ndarray:
    """The block scale in float64 for positive finite amax, from its definition with exact comparisons."""
    _, emax, largest, mantissa_bits = ELEMENTS[element]
    significand, exponent = np.frexp(amax)  # significand in [0.5, 1)
    log2 = exponent - 1
    if rule == "floor":
        shared = log2 - emax
    elif rule == "ceil":
        shared = np.where(significand > 0.5, log2 + 1, log2) - emax
    elif rule == "even":
        rounded = np.rint(np.ldexp(significand, mantissa_bits + 1))
        shared = np.where(rounded == 2.0 ** (mantissa_bits + 1), log2 + 1, log2) - emax
    else:  # rceil: one of two candidates
        shared = np.where(amax <= np.ldexp(largest, log2 - emax), log2 - emax, log2 - emax + 1)
    return np.ldexp(1.0, np.clip(shared, -127, 127))


def mx_rows(x: np.ndarray, element: str, rule: str) -> np.ndarray:
    """float64 [..., n] through an MX format in blocks of 32 along the last axis; zeros fill up the last block."""
    length = x.shape[-1]
    padded = np.concatenate([x, np.zeros((*x.shape[:-1], -length % 32))], axis=-1)
    blocks = padded.reshape(*x.shape[:-1], -1, 32)
    amax = np.abs(blocks).max(axis=-1, keepdims=True)
    dtype, _, largest, _ = ELEMENTS[element]
    with np.errstate(invalid="ignore", over="ignore"):
        scale = np.where(amax > 0, mx_scale(np.where(np.isfinite(amax) & (amax > 0), amax, 1.0), element, rule), 1.0)
        elements = np.clip(blocks / scale, -largest, largest).astype(np.float32).astype(dtype).astype(np.float64)
        result = np.where(np.isfinite(amax), elements * scale, np.nan)
    return result.reshape(padded.shape)[..., :length]


def nvfp4_rows(x: np.ndarray) -> np.ndarray:
    """[..., n] through NVFP4 in blocks of 16 along the last axis, in fp32 operations in the recipe's order."""
    x = x.astype(np.float32)
    length = x.shape[-1]
    blocks = np.concatenate([x, np.zeros((*x.shape[:-1], -length % 16), np.float32)], axis=-1)
    blocks = blocks.reshape(*x.shape[:-1], -1, 16)
    finite = np.abs(blocks[np.isfinite(blocks)])
    largest = finite.max() if finite.size else np.float32(0)
    with np.errstate(all="ignore"):
        encode = min(np.float32(2688) / largest, np.float32(2.0**117)) if largest > 0 else np.float32(1)
        decode = np.float32(1) / np.float32(encode)
        amax = np.abs(blocks).max(axis=-1, keepdims=True)
        scale = np.minimum(amax / np.float32(6) * encode, np.float32(448))
        scale = np.where(np.isfinite(amax), scale, 0).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
        scaled = np.where(scale > 0, blocks * (np.float32(1) / (scale * decode)), 0)
        elements = np.clip(scaled, -6, 6).astype(ml_dtypes.float4_e2m1fn).astype(np.float32)
        # E4M3's own NaN stands for a block that is not finite
        result = np.where(np.isfinite(amax), np.copysign(np.abs(elements) * scale * decode, blocks), np.nan)
    assert result.dtype == np.float32
    return result.reshape(*x.shape[:-1], -1)[..., :length]


def hif8(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32).astype(en_dtypes.hifloat8).astype(np.float64)


def emulate(x: Tensor, spec: FormatSpec | str, axis: int = -1) -> Tensor:
    """What quantize_dequantize(x, spec, axis) promises, for round=nearest and hifp8's scale=none."""
    spec = parse(spec) if isinstance(spec, str) else spec
    values = x.detach().to(torch.float64).numpy()
    if spec.format == "hifp8":
        result = hif8(values)
    else:
        rows = np.moveaxis(values, axis, -1)
        rows = nvfp4_rows(rows) if spec.format == "nvfp4" else mx_rows(rows, spec.elem or "e2m1", spec.scale)
        result = np.moveaxis(rows, -1, axis)
    largest = torch.finfo(x.dtype).max
    finite = torch.from_numpy(np.ascontiguousarray(result))
    result = torch.where(finite.isfinite(), finite.clamp(-largest, largest), finite)
    # strides choose the library's GEMM, and with it the order of accumulation
    return torch.empty_like(x).copy_(result)


@pytest.fixture(scope="session", name="emulate")
def _emulate() -> Callable[..., Tensor]:
    return emulate


@pytest.fixture(scope="session", name="mx_scale")
def _mx_scale() -> Callable[..., np.ndarray]:
    return mx_scale


@pytest.fixture(scope="session")
def all_bf16() -> Tensor:
    """Every bf16 bit pattern, [65536]."""
    return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)


@pytest.fixture(scope="session")
def all_fp16() -> Tensor:
    """Every fp16 bit pattern, [65536]."""
    return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.float16)


@pytest.fixture(scope="session")
def random_bits() -> Tensor:
    """fp32 of random bit patterns: all exponents, subnormals, NaN and Inf, [2^18]."""
    generator = torch.Generator().manual_seed(1)
    bits = torch.randint(-(2**31), 2**31, (2**18,), generator=generator, dtype=torch.int64)
    return bits.to(torch.int32).view(torch.float32)


@pytest.fixture(scope="session")
def same() -> Callable[[Tensor, Tensor], None]:
    """Assert equal dtypes, shapes and bits; any NaN equals any NaN."""

    def check(actual: Tensor, expected: Tensor) -> None:
        assert actual.dtype == expected.dtype
        assert actual.shape == expected.shape
        bits = {4: torch.int32, 2: torch.int16}[actual.element_size()]
        equal = (actual.contiguous().view(bits) == expected.contiguous().view(bits)) | (
            actual.isnan() & expected.isnan()
        )
        wrong = (~equal).nonzero()
        assert not len(wrong), (
            f"{len(wrong)} of {equal.numel()} differ, first at {wrong[0].tolist()}: "
            f"{actual[tuple(wrong[0])]} and not {expected[tuple(wrong[0])]}"
        )

    return check
