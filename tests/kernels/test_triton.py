"""The Triton kernels against the torch reference: every bit, every option.

Run by Triton's interpreter; with QUANTCTL_TEST_DEVICE=cuda compiled, on tensors of the GPU (`make kernels-gpu`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from kernel_specs import differing, every

from quantctl.errors import QuantctlError
from quantctl.kernels.dispatch import TRITON
from quantctl.kernels.formats.quantize import quantize_dequantize, quantize_dequantize_along
from quantctl.kernels.philox import Draw
from quantctl.kernels.triton import launch
from quantctl.kernels.triton import qdq as triton_qdq
from quantctl.spec import parse

# numpy, in which the interpreter computes, reports what IEEE 754 says about Inf and NaN
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

DEVICE = torch.device(os.environ.get("QUANTCTL_TEST_DEVICE", "cpu"))
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
DRAWS = (Draw(seed=2**63 + 5, call=2**33 + 7, rank=3), Draw(seed=2**63 + 5, call=8, rank=3))

LATER = {"block", "headroom", "extent", "target"}
SPECS = [
    *(
        spec
        for spec in every(TRITON)
        if len(differing(spec)) < 2 or not (differing(spec) & LATER or spec.startswith(("fp8", "int8")))
    ),
    *("mxfp4:scale=floor,round=stochastic,headroom=3/4", "nvfp4:scale=multiply,round=stochastic,headroom=16/17"),
    *("nvfp4:scale=multiply,block=16x16", "fp8:block=1x128,round=stochastic", "fp8:block=128x128,scale=pow2"),
    *("nvfp4:scale=4over6,extent=row", "nvfp4:scale=4over6_mse,block=16x16", "int8:block=32x32,round=stochastic"),
    *("hifp8:scale=fp32,target=224", "fp8:block=row,elem=e5m2,scale=pow2"),
]
"""Every format with every combination of scale rule, element type and rounding; what came later beside the defaults."""
TRANSFORMS = [
    *("mxfp4:hadamard=16", "nvfp4:hadamard=16,signs=fixed", "mxfp4:hadamard=32,signs=random,round=stochastic"),
    *("int8:hadamard=64,hadamard_out=fp32", "mxfp8:hadamard=128,hadamard_out=fp32", "hifp8:hadamard=16,scale=tensor"),
    *("nvfp4:extent=row,hadamard=32", "fp8:block=128x128,hadamard=16,signs=random"),
]
"""Each size, signs, and what is rounded, in front of each kind of scale."""
FEW = [
    "mxfp8",
    "mxfp4:round=stochastic",
    "nvfp4:round=stochastic",
    "hifp8:scale=tensor",
    "hifp8:round=stochastic",
    "int8",
]


@pytest.fixture
def both(monkeypatch, same):
    """Function: quantize with both implementations, compare the bits, give the result."""

    def check(x, spec, axes, draws=None):
        draws = DRAWS[: len(axes)] if draws is None else draws
        results = {}
        for choice in ("reference", "triton"):
            monkeypatch.setenv("QUANTCTL_KERNELS", choice)
            results[choice] = quantize_dequantize_along(x, spec, axes, draws)
        for actual, expected in zip(results["triton"], results["reference"], strict=True):
            same(actual, expected)
        return results["triton"]

    return check


def values(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Many magnitudes; NaN, Inf, zeros of both signs, subnormals, the dtype's largest number."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator) * 2.0 ** (8 * torch.randn(shape, generator=generator))
    x = x.to(dtype)
    info = torch.finfo(dtype)
    special = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0, info.max, info.tiny / 4, -info.tiny], dtype=dtype)
    x.view(-1)[:: x.numel() // 7][:7] = special
    return x.to(DEVICE)


@pytest.mark.parametrize("spec", SPECS)
def test_every_option_equals_the_reference_in_one_pass_over_both_directions(spec, both) -> None:
    """Two tiles each way, tails in both directions."""
    rows = 140 if "128" in spec else 33
    both(values(rows, 140, dtype=torch.bfloat16), spec, (0, 1))


@pytest.mark.parametrize("spec", TRANSFORMS)
def test_a_transform_in_the_same_pass(spec, both, same) -> None:
    """Four tiles; signs of a draw of their own."""
    draws = (replace(DRAWS[0], signs=2**40 + 9), DRAWS[1])
    x = values(128, 256, dtype=torch.bfloat16)
    first, _ = both(x, spec, (0, 1), draws)
    same(both(x.t().contiguous().t(), spec, (0,), draws[:1])[0].contiguous(), first)
    both(values(64, 128, dtype=torch.float16).view(2, 32, 128), spec, (2,), draws[1:])


def test_a_transform_of_another_size_is_refused(monkeypatch) -> None:
    monkeypatch.setenv("QUANTCTL_KERNELS", "triton")
    with pytest.raises(QuantctlError, match="hadamard=16 does not divide 40, the size of axis 1"):
        quantize_dequantize(torch.ones(32, 40), "mxfp4:hadamard=16")


@pytest.mark.parametrize("spec", ["int8", "fp8:block=row,hadamard=16"])
@pytest.mark.parametrize("axis", [0, 1])
def test_rows_that_no_tile_holds_are_what_others_are(spec, axis, both, monkeypatch, same) -> None:
    x = values(64, 160, dtype=torch.bfloat16)
    (whole,) = both(x, spec, (axis,), DRAWS[:1])
    monkeypatch.setattr(launch, "_LARGEST", 1024)
    same(both(x, spec, (axis,), DRAWS[:1])[0], whole)


@pytest.mark.parametrize(
    "spec", [s for s in SPECS if len(differing(s)) < 2 and "scale=floor" not in s and "scale=ceil" not in s]
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_other_dtypes(spec, dtype, both) -> None:
    both(values(33, 67, dtype=dtype), spec, (0, 1))


@pytest.mark.parametrize(
    "spec",
    [
        "mxfp8",
        "mxfp8:elem=e5m2",
        "mxfp6",
        "mxfp4",
        "nvfp4",
        "hifp8",
        "hifp8:scale=tensor",
        "int8:block=32x32",
        "hifp8:scale=fp32",
        "hifp4",
        "nvfp4:scale=4over6",
    ],
)
def test_every_bf16_and_random_fp32_bits(spec, all_bf16, random_bits, both) -> None:
    random_bits = random_bits.to(DEVICE)
    both(all_bf16.to(DEVICE).view(-1, 256), spec, (1,))
    both(random_bits[:16384].view(-1, 128), spec, (0, 1))
    small = random_bits[random_bits.abs() < 1e-37][:1024]
    both(small.view(-1, 64), spec, (0, 1))


@pytest.mark.parametrize("spec", FEW)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_direction_is_what_both_give(spec, dtype, both, same) -> None:
    x = values(40, 70, dtype=dtype)
    first, last = both(x, spec, (0, 1))
    same(both(x, spec, (0,), DRAWS[:1])[0], first)
    same(both(x, spec, (1,), DRAWS[1:])[0], last)
    last, first_again = both(x, spec, (1, 0), DRAWS[::-1])
    same(first_again, first)


def base() -> torch.Tensor:
    return values(3, 34, 6, dtype=torch.bfloat16)


STRIDES = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.transpose(0, 2),
    "last two swapped": lambda x: x.transpose(1, 2),
    "transposed twice": lambda x: x.transpose(0, 1).transpose(1, 2),
    "every second": lambda x: x[:, ::2, ::2],
    "slice with an offset": lambda x: x[1:, 1:, 3:],
    "expanded": lambda x: x[:1].expand(2, 34, 6),
    "one dimension": lambda x: x[0, :, 3],
    "one element": lambda x: x[0, 0, :1],
    "four dimensions": lambda x: x.unflatten(1, (17, 2)).permute(3, 0, 2, 1),
    "dimensions of one": lambda x: x[:1, None, :33, None],
}


# blocks and the numbers of noise for every kind; where neither is, for some
@pytest.mark.parametrize(
    ("spec", "stride"),
    [
        *(("mxfp4:round=stochastic", stride) for stride in STRIDES),
        *(("hifp8:scale=tensor", stride) for stride in list(STRIDES)[::3]),
    ],
)
def test_strides_do_not_matter(spec, stride, both) -> None:
    whole = base()
    kept = whole.clone()
    x = STRIDES[stride](whole)
    for axis in range(x.dim()):
        (out,) = both(x, spec, (axis,))
        assert out.stride() == torch.empty_like(x).stride()
    if x.dim() > 1:
        both(x, spec, (-1, -2))
    assert torch.equal(whole.view(torch.int16), kept.view(torch.int16))


@pytest.mark.parametrize("spec", ["mxfp8", "nvfp4", "hifp8:scale=tensor", "mxfp4:round=stochastic"])
def test_captured_as_one_graph(spec, both, monkeypatch, same) -> None:
    x = values(33, 40, dtype=torch.bfloat16)
    expected = both(x, spec, (0, 1))
    monkeypatch.setenv("QUANTCTL_KERNELS", "triton")
    compiled = torch.compile(quantize_dequantize_along, backend="eager", fullgraph=True)
    for actual, e in zip(compiled(x, parse(spec), (0, 1), DRAWS), expected, strict=True):
        same(actual, e)


def test_draws_of_several_seeds(both) -> None:
    both(values(33, 40, dtype=torch.bfloat16), "mxfp4:round=stochastic", (0, 1), (Draw(1, 2), Draw(2, 3)))


@pytest.mark.parametrize("shape", [(0,), (0, 32), (32, 0), (3, 0, 5)], ids=str)
def test_empty_tensors(shape, both) -> None:
    for spec in FEW:
        for axis in range(len(shape)):
            both(torch.empty(shape, dtype=torch.bfloat16, device=DEVICE), spec, (axis,))


def test_offsets_beyond_32_bits(both) -> None:
    """36 rows that lie 2^26 elements apart, in a gigabyte of address space that is never touched elsewhere."""
    room = torch.empty(35 * 2**26 + 40, dtype=torch.bfloat16, device=DEVICE)
    x = room.as_strided((36, 40), (2**26, 1))
    x.copy_(values(36, 40, dtype=torch.bfloat16))
    both(x, "mxfp8", (0, 1))


@pytest.mark.parametrize(
    ("spec", "directions", "passes"),
    [("mxfp8", 1, 2), ("mxfp8", 2, 3), ("hifp8", 1, 2), ("hifp8:scale=tensor", 1, 3), ("nvfp4", 2, 4)],
)
def test_bytes_moved(spec, directions, passes) -> None:
    x = torch.empty(64, 96, dtype=torch.bfloat16)
    assert triton_qdq.bytes_moved(x, parse(spec), directions) == passes * 64 * 96 * 2


def test_what_cannot_be_forced_is_refused(monkeypatch) -> None:
    x = torch.ones(32)
    monkeypatch.setenv("QUANTCTL_KERNELS", "triton")
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(QuantctlError, match="tensor on cpu") as refusal:
        quantize_dequantize(x, "mxfp8")
    assert "TRITON_INTERPRET=1" in refusal.value.hint


def test_compiled_code_has_no_operation_that_could_round_otherwise() -> None:
    """Compiled without a GPU for three generations, and searched: nothing fused, flushed or approximated."""
    script = Path(__file__).with_name("compile_kernels.py")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = done.stdout.splitlines()
    assert len(rows) == 27
    assert [row for row in rows if not row.endswith(": clean")] == []
