"""The compiled CPU kernels equal the reference in every bit, NaN payloads aside."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from kernel_specs import differing, every
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.two_tensor import TwoTensor

from quantctl.errors import QuantctlError
from quantctl.kernels import philox
from quantctl.kernels.cpu import codes as cpu_codes
from quantctl.kernels.cpu import hadamard as cpu_hadamard
from quantctl.kernels.cpu import kept, qdq, threads
from quantctl.kernels.cpu.room import room_like
from quantctl.kernels.cpu.words import FINITE
from quantctl.kernels.dispatch import CPU
from quantctl.kernels.formats import codes, hadamard
from quantctl.kernels.formats.quantize import quantize_dequantize_along, quantize_dequantize_both
from quantctl.kernels.products.grouped import grouped_linear
from quantctl.kernels.products.linear import quantized_linear
from quantctl.spec import parse

BITS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}
DTYPES = list(BITS)
GENERATOR = torch.Generator().manual_seed(11)


# each way to store a result, in each dtype
STORED = ["mxfp8", "nvfp4", "hifp8", "hifp8:scale=tensor", "int8"]
# the arithmetic of every option, in the dtype that has the most numbers
OPTIONS = [
    *(text for text in every(CPU) if len(differing(text)) <= 1),
    *("hifp8:scale=fp32,target=224,round=stochastic", "hifp8:scale=tensor,round=stochastic"),
    *("mxfp4:scale=floor,round=stochastic,headroom=3/4", "mxfp8:scale=ceil,elem=e5m2,round=away"),
    *("mxfp4:block=32x32,round=stochastic", "fp8:block=row,scale=pow2,round=stochastic"),
    *("nvfp4:round=stochastic,headroom=16/17", "nvfp4:scale=multiply,round=stochastic,headroom=16/17"),
    *("nvfp4:scale=4over6,block=16x16", "nvfp4:scale=4over6,extent=row", "nvfp4:scale=multiply,extent=row"),
    *("nvfp4:scale=multiply,block=16x16", "int8:block=32x32,round=stochastic"),
]
CASES = [
    *((text, dtype) for text in STORED for dtype in (torch.bfloat16, torch.float16)),
    *((text, torch.float32) for text in OPTIONS),
]


def _random(shape):
    return torch.randint(-(2**31), 2**31, shape, generator=GENERATOR).to(torch.int32)


def _tensors(dtype):
    """Every pattern of 16 bits or many of 32, whole and without NaN and Inf, and normal numbers of every size."""
    if dtype == torch.float32:
        patterns = _random((150, 150)).view(dtype)
    else:
        patterns = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(dtype)
        patterns = patterns[torch.randperm(65536, generator=GENERATOR)].view(256, 256)
    yield patterns
    yield torch.where(patterns.isfinite(), patterns, 0)
    for size in (1.0, 1e-30, 1e-41, 3e37):
        yield (torch.randn(70, 100, generator=GENERATOR, dtype=torch.float64) * size).to(dtype)


def same(a, b):
    nan = a.isnan()
    bits = [t.masked_fill(nan, 0).view(BITS[a.dtype]) for t in (a, b)]
    return torch.equal(nan, b.isnan()) and torch.equal(*bits) and a.stride() == b.stride()


def _draws(text, axes):
    return tuple(philox.Draw(5, 77 + axis, 3) if "stochastic" in text else None for axis in axes)


def reference(x, text, axes):
    return quantize_dequantize_along(x, text, axes, _draws(text, axes))


def compiled(x, text, axes):
    return qdq.quantize_dequantize(x, parse(text), axes, _draws(text, axes))


def both(x, text, axes):
    return reference(x, text, axes), compiled(x, text, axes)


@pytest.mark.parametrize(("text", "dtype"), CASES, ids=lambda value: str(value).removeprefix("torch."))
def test_every_pattern(text, dtype):
    for number, x in enumerate(_tensors(dtype)):
        expected = dict(zip((1, 0), reference(x, text, (1, 0)), strict=True))
        for axes in ((1,), (0,), (1, 0)):
            for axis, found in zip(axes, compiled(x, text, axes), strict=True):
                assert same(expected[axis], found), (number, axes)


@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        *(("mxfp4:hadamard=32,signs=random", dtype) for dtype in DTYPES),
        ("nvfp4:hadamard=16,signs=fixed,hadamard_out=fp32", torch.bfloat16),
    ],
    ids=lambda value: str(value).removeprefix("torch."),
)
def test_hadamard(text, dtype):
    spec, draw = parse(text), philox.Draw(5, 78, 3)
    for shape in ((64, 3, 96), (128,)):
        for size in (1.0, 6e4, 3e37, 1e-41):
            x = (torch.randn(shape, generator=GENERATOR, dtype=torch.float64) * size).to(dtype)
            x.view(-1)[5:8] = torch.tensor([torch.inf, torch.nan, -torch.inf]) if size == 1.0 else 0.0
            for axis in (0, x.dim() - 1):
                found, bits = cpu_hadamard.transformed(x, spec, axis, draw, FINITE)
                assert bits == found.float().nan_to_num(0.0, 0.0, 0.0).abs().max().view(torch.int32).item()
                assert same(hadamard.reference(x, spec, axis, draw), found), (shape, size, axis)


@pytest.mark.parametrize("size", [16, 32, 64, 128])
def test_hadamard_of_more_than_the_workspace(size):
    spec = parse(f"mxfp4:hadamard={size}")
    for shape, axis in (((100, 2 * size), 1), ((2 * size, 700), 0), ((3, size, 17), 1), ((70 * size, 2), 0)):
        x = torch.randn(shape, generator=GENERATOR)
        assert same(hadamard.reference(x, spec, axis, None), cpu_hadamard.transformed(x, spec, axis, None)[0]), shape


LEFT = ["hifp4", "nvfp4:scale=4over6"]
"""To the reference: their blocks share more than a scale."""
ENCODED = [
    *("mxfp8", "mxfp6:block=32x32,round=away", "mxfp4:scale=floor,round=stochastic,headroom=3/4", "nvfp4"),
    *("nvfp4:scale=multiply,extent=row", "fp8", "fp8:block=128x128", "int8", "int8:block=32x32,round=stochastic"),
    *("hifp8", "hifp8:scale=fp32,round=stochastic"),
]


@pytest.mark.parametrize("text", [*ENCODED, *LEFT])
def test_codes(text, monkeypatch):
    tails = torch.randn(3, 40, 41, generator=GENERATOR).to(torch.float16)
    for x in (*_tensors(torch.bfloat16), tails, tails.transpose(0, 1), torch.randn(70, generator=GENERATOR)):
        for axis in range(max(x.dim() - 2, 0), x.dim()):
            monkeypatch.setenv("QUANTCTL_KERNELS", "reference")
            expected = codes.encode(x, text, axis, rng=philox.Draw(5, 77))
            values = codes.decode(expected)
            monkeypatch.setenv("QUANTCTL_KERNELS", "cpu")
            found = codes.encode(x, text, axis, rng=philox.Draw(5, 77))
            for one, other in zip(_parts(expected), _parts(found), strict=True):
                assert one.shape == other.shape
                assert torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0))
            assert same(values, codes.decode(found))
    plain = torch.ones(2, 64)
    assert (cpu_codes.encode(plain, parse(text), torch.zeros_like(plain)) is None) == (text in LEFT)


def _parts(encoded):
    return [t for t in (encoded.elements, encoded.block_scales, encoded.tensor_scale) if t is not None]


SHAPES = {
    "empty": torch.empty(0, 32),
    "no columns": torch.empty(3, 0),
    "one": torch.randn(1),
    "a row": torch.randn(77),
    "tails": torch.randn(33, 95),
    "three": torch.randn(5, 40, 7),
    "four": torch.randn(3, 4, 33, 5),
    "transposed": torch.randn(65, 70).t(),
    "a slice": torch.randn(64, 128)[:, 3:100],
    "every second": torch.randn(64, 128)[:, ::2],
    "expanded": torch.randn(1, 64).expand(40, 64),
    "permuted": torch.randn(4, 33, 6).permute(2, 0, 1),
    "offset": torch.randn(10, 64)[3:],
    "size one": torch.randn(7, 1, 9),
    "tiles and chunks": torch.randn(40, 1400),
    "of a batch": torch.randn(2, 36, 300),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(
    "text",
    [
        *("mxfp8", "nvfp4", "hifp8:scale=tensor", "mxfp4:round=stochastic", "fp8:block=128x128", "fp8:block=row"),
        *("fp8", "hifp4", "nvfp4:extent=row", "nvfp4:scale=4over6,block=16x16"),
    ],
)
def test_shapes_and_strides(name, text):
    x = SHAPES[name].to(torch.bfloat16 if text == "mxfp8" else torch.float32)
    first = max(x.dim() - 2, 0) if "128x128" in text or "16x16" in text else 0
    for axes in [(axis,) for axis in range(first, x.dim())] + ([(x.dim() - 1, first)] if x.dim() > 1 else []):
        kept_bits = x.clone()
        expected, found = both(x, text, axes)
        assert all(map(same, expected, found)), axes
        assert torch.equal(x, kept_bits)


def test_room_for_a_large_result():
    x = torch.empty(1 << 24, dtype=torch.bfloat16).view(4096, 4096).t()
    result = room_like(x).fill_(1.5)
    assert (result.shape, result.stride(), result.dtype) == (x.shape, x.stride(), x.dtype)
    assert result[::1000].eq(1.5).all()


@pytest.mark.parametrize(
    "text", ["mxfp8", "mxfp4:round=stochastic", "nvfp4", "hifp8", "mxfp4:hadamard=32", "fp8:block=row"]
)
def test_gaps_between_rows_change_no_value(text):
    """Of rows of whole pages; with numbers whose blocks go to the reference."""
    for width, dtype, stride in ((1024, torch.float32, 1040), (2048, torch.bfloat16, 2080), (512, torch.float32, 512)):
        x = torch.randn(96, width, generator=GENERATOR).to(dtype)
        x[40] *= 1e-38
        axes = (1, 0)
        found = qdq.quantize_dequantize(x, parse(text), axes, _draws(text, axes), gaps=True)
        for made, expected in zip(found, reference(x, text, axes), strict=True):
            assert made.stride() == (stride, 1)
            assert same(made.contiguous(), expected)


@pytest.fixture
def all_wait(monkeypatch):
    """Results that wait go past the caches, however small they are."""

    def forget():
        qdq._plan.cache_clear()
        qdq._both.cache_clear()

    monkeypatch.setattr(qdq, "_WAITS", 0)
    forget()
    yield
    forget()


@pytest.mark.parametrize(
    "text", ["mxfp8", "mxfp4:scale=floor,round=stochastic,headroom=3/4", "nvfp4", "nvfp4:scale=multiply", "int8"]
)
def test_results_past_the_caches(text, all_wait):
    """Wherever a line of memory begins in their rows; nothing beside them is written."""
    for dtype, width in ((torch.bfloat16, 8), (torch.bfloat16, 1111), (torch.float32, 300), (torch.float32, 1040)):
        x = torch.randn(37, width, generator=GENERATOR).to(dtype)
        axes = (1, 0)
        expected = reference(x, text, axes)
        assert all(map(same, compiled(x, text, axes), expected))
        for offset in (0, 1, 19, 32):
            around = [torch.full((x.numel() + 64,), 7.0, dtype=dtype) for _ in axes]
            outs = [memory[offset:][: x.numel()].view(x.shape) for memory in around]
            qdq.into(outs, x, parse(text), axes, _draws(text, axes))
            assert all(map(same, outs, expected)), (dtype, width, offset)
            for memory in around:
                assert memory[:offset].eq(7).all()
                assert memory[offset + x.numel() :].eq(7).all()


@pytest.mark.parametrize("shape", [(3, 37, 300), (2, 1024), (70,), (5, 2, 1), (0, 32)], ids=str)
@pytest.mark.parametrize("text", ["mxfp8", "nvfp4", "hifp8", "mxfp4:round=stochastic", "mxfp8:block=32x32", "int8"])
def test_a_layer_s_operand_both_ways_is_the_reference_s(text, shape, monkeypatch):
    """Whole chunks and ends of them, in the operand's shape and as the matrix of its rows."""
    for dtype in (torch.float32, torch.bfloat16):
        plain = torch.randn(shape, generator=GENERATOR).to(dtype)
        for x in (plain, torch._neg_view(plain), torch._efficientzerotensor(shape, dtype=dtype)):
            monkeypatch.setenv("QUANTCTL_KERNELS", "reference")
            expected = quantize_dequantize_both(x, parse(text), _draws(text, (1, 0)))
            monkeypatch.setenv("QUANTCTL_KERNELS", "cpu")
            found = quantize_dequantize_both(x, parse(text), _draws(text, (1, 0)), gaps=True)
            assert found[0].shape == shape
            assert found[1].shape == (math.prod(shape[:-1]), shape[-1])
            assert all(same(one.contiguous(), other.contiguous()) for one, other in zip(expected, found, strict=True))


def test_what_no_kernel_may_read_is_refused_both_ways(monkeypatch):
    """By name, and before anybody looks at its memory."""
    monkeypatch.setenv("QUANTCTL_KERNELS", "cpu")
    plain = torch.randn(4, 32)
    for x in (plain.double(), plain.int(), plain.to_sparse(), TwoTensor(plain, plain)):
        with pytest.raises(QuantctlError, match="cannot quantize"):
            quantize_dequantize_both(x, parse("mxfp8"), (None, None))


def test_several_threads_at_once(monkeypatch):
    """Autograd calls from threads of its own; each call divides its work again."""
    monkeypatch.setattr(threads, "SMALLEST_PIECE", 64)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    x = torch.randn(300, 300)
    expected, _ = both(x, "mxfp8", (1, 0))
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: both(x, "mxfp8", (1, 0))[1], range(40)):
            assert all(map(same, expected, found))


def test_after_a_fork(monkeypatch):
    monkeypatch.setattr(threads, "SMALLEST_PIECE", 64)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    x = torch.randn(100, 100)
    (expected,), (before,) = both(x, "mxfp8", (1,))
    assert same(expected, before)
    pid = os.fork()
    if pid == 0:
        (found,) = qdq.quantize_dequantize(x, parse("mxfp8"), (1,), (None,))
        os._exit(0 if same(expected, found) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _step(text, experts, width=48):
    """Output and gradients of a linear layer, or of experts side by side, that draw the same numbers each time."""
    torch.manual_seed(3)
    x = torch.randn(70, 64, requires_grad=True)
    weights = [torch.randn(width, 64, requires_grad=True) for _ in range(3 if experts else 1)]
    y = grouped_linear(x, weights, [30, 0, 40], text) if experts else quantized_linear(x, weights[0], None, text)
    y.square().sum().backward()
    return [y.detach(), x.grad, *(weight.grad for weight in weights)]


@pytest.mark.parametrize("experts", [False, True], ids=["linear", "experts"])
@pytest.mark.parametrize(
    "text",
    [
        *("mxfp8", "hifp8:scale=tensor", "mxfp4:round=stochastic", "mxfp8:bwd=dequantized"),
        *("fp8:block=1x128,weight.block=128x128", "fp8", "nvfp4:scale=multiply,weight.block=16x16"),
        *("int8", "nvfp4:extent=row"),
    ],
)
def test_products_are_those_of_the_reference(text, experts, monkeypatch):
    monkeypatch.setenv("QUANTCTL_KERNELS", "reference")
    expected = _step(text, experts)
    monkeypatch.setenv("QUANTCTL_KERNELS", "cpu")
    assert all(map(torch.equal, _step(text, experts), expected))


def test_products_of_rows_with_gaps_are_those_of_the_reference(monkeypatch):
    monkeypatch.setenv("QUANTCTL_KERNELS", "reference")
    expected = _step("mxfp8", False, 1024)
    monkeypatch.setenv("QUANTCTL_KERNELS", "cpu")
    assert all(map(torch.equal, _step("mxfp8", False, 1024), expected))


def test_a_fake_tensor_goes_through_the_reference(monkeypatch):
    monkeypatch.setenv("QUANTCTL_KERNELS", "cpu")
    with FakeTensorMode():
        assert quantize_dequantize_along(torch.empty(4, 32), "mxfp8", (1,))[0].shape == (4, 32)


def test_zeros_that_have_no_memory(monkeypatch):
    monkeypatch.setenv("QUANTCTL_KERNELS", "cpu")
    zeros = torch._efficientzerotensor((4, 32))
    assert torch.equal(quantize_dequantize_along(zeros, "mxfp8", (1,))[0], torch.zeros(4, 32))


@pytest.mark.parametrize("size", [1e-6, 1e-38, 1e-41])
@pytest.mark.parametrize(
    "text", ["mxfp8", "nvfp4", "mxfp4:scale=floor,round=stochastic", "hifp8:scale=tensor", "int8", "hifp8:scale=fp32"]
)
def test_subnormal_numbers_flushed(text, size):
    """With torch.set_flush_denormal(True) the bits are the same as without."""
    x = (torch.randn(64, 64, dtype=torch.float64) * size).float()
    expected = reference(x, text, (1, 0))
    torch.set_flush_denormal(True)
    try:
        found = compiled(x, text, (1, 0))
        still = torch.tensor(1e-40) * 1 == 0
    finally:
        torch.set_flush_denormal(False)
    assert still
    assert all(map(same, expected, found))


PROGRAM = """
import torch
from quantctl.kernels.cpu import codes
from quantctl.kernels.formats.format import Codes
from quantctl.spec import parse
y = codes.decode(Codes(torch.full((4, 32), 10, dtype=torch.uint8), None, None), parse("hifp8"), torch.float32)
print(y[0, 0].item())
"""


def _program(cache):
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    return subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)


def test_kernels_are_kept(tmp_path):
    """Compiled once; a damaged file is compiled anew, and a cache that is no folder is none."""
    assert _program(tmp_path).stdout == "1.25\n"
    (file,) = tmp_path.glob("quantctl/kernels/*/*")
    content = file.read_bytes()
    file.write_bytes(content[:-7])
    assert _program(tmp_path).stdout == "1.25\n"
    assert file.read_bytes()[32:] != content[32:-7]
    (tmp_path / "file").write_text("")
    done = _program(tmp_path / "file")
    assert (done.returncode, done.stdout) == (0, "1.25\n"), done.stderr


def test_the_folder_names_what_its_files_depend_on():
    assert kept.folder().parent.name == "kernels"
    assert kept.folder() == kept.folder()
