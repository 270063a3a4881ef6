"""What surrounds a training: modes and defaults of torch, flushed subnormals, odd operands, nothing to compute."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from quantctl.errors import QuantctlError
from quantctl.kernels.formats.codes import decode, encode
from quantctl.kernels.formats.quantize import quantize_dequantize, quantize_dequantize_along
from quantctl.kernels.measure.statistics import measure
from quantctl.kernels.philox import Draw
from quantctl.kernels.products.attention import pv, qk
from quantctl.kernels.products.fused_attention import fused_attention
from quantctl.kernels.products.grouped import grouped_linear
from quantctl.kernels.products.linear import quantized_linear
from quantctl.kernels.products.packed import dequantize, quantize_dequantize_packed
from quantctl.spec import parse

SPECS = [
    "mxfp8",
    "mxfp8:elem=e5m2,round=away",
    "mxfp6:scale=floor",
    "mxfp4:scale=ceil",
    "mxfp4:round=stochastic",
    "nvfp4",
    "hifp8",
    "hifp8:scale=tensor",
    "hifp8:round=stochastic",
]
by_spec = pytest.mark.parametrize("spec", SPECS)
DRAW = Draw(seed=3, call=4)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32).to(dtype)


def leaf(*shape: int, seed: int = 0) -> Tensor:
    return randn(*shape, seed=seed).requires_grad_()


# every product: a name, its differentiable operands [by sizes that may be 0], and the call
PRODUCTS: dict[str, tuple[Callable[[], list[Tensor]], Callable[..., Tensor]]] = {
    "linear": (lambda: [leaf(6, 32), leaf(16, 32, seed=1)], lambda x, w, spec: quantized_linear(x, w, None, spec)),
    "linear with a bias": (
        lambda: [leaf(6, 32), leaf(16, 32, seed=1), leaf(16, seed=2)],
        quantized_linear,
    ),
    "qk": (lambda: [leaf(2, 5, 32), leaf(2, 32, 7, seed=1)], lambda q, k, spec: qk(q, k, 0.5, spec)),
    "pv": (lambda: [leaf(2, 5, 32), leaf(2, 32, 16, seed=1)], pv),
    "grouped": (
        lambda: [leaf(6, 32), leaf(16, 32, seed=1), leaf(16, 32, seed=2)],
        lambda x, a, b, spec: grouped_linear(x, [a, b], [4, 2], spec),
    ),
    "fused qk": (
        lambda: [leaf(8, 2, 2, 32, seed=i) for i in range(3)],
        lambda q, k, v, spec: fused_attention(q, k, v, scale=0.2, causal=True, qk=spec, pv="none"),
    ),
    "fused pv": (
        lambda: [leaf(8, 2, 2, 32, seed=i) for i in range(3)],
        lambda q, k, v, spec: fused_attention(q, k, v, scale=0.2, causal=True, qk="none", pv=spec),
    ),
}
by_product = pytest.mark.parametrize("name", PRODUCTS)
GRADIENTS_QUANTIZED = ["linear", "linear with a bias", "qk", "pv", "grouped"]


def step(name: str, spec: str, context: Any = None) -> list[Tensor]:
    """The output of a product and the gradients of its operands, with the same noise each time."""
    torch.manual_seed(0)
    operands, call = PRODUCTS[name][0](), PRODUCTS[name][1]
    with context or nullcontext():
        output = call(*operands, spec)
    output.float().sin().sum().backward()
    return [output.detach(), *(operand.grad for operand in operands)]


# --- odd operands


def test_two_axes_of_a_tensor_with_more_dimensions(monkeypatch, same) -> None:
    x = randn(2, 3, 4, 5)
    for axes in ((1, 3), (0, 2), (3, 1)):
        results = {}
        for choice in ("reference", "triton"):
            monkeypatch.setenv("QUANTCTL_KERNELS", choice)
            results[choice] = quantize_dequantize_along(x.permute(2, 0, 3, 1), "mxfp8", axes)
        for actual, expected in zip(results["triton"], results["reference"], strict=True):
            same(actual, expected)


@pytest.mark.parametrize("spec", ["mxfp4", "mxfp4:round=stochastic"])
@pytest.mark.parametrize("axes", [(1, 1), (), (0, 1, 2)], ids=str)
def test_any_axes_at_once(axes, spec, monkeypatch, same) -> None:
    x, draws = randn(2, 4, 40), tuple(Draw(1, call) for call in range(len(axes)))
    monkeypatch.setenv("QUANTCTL_KERNELS", "triton")
    results = quantize_dequantize_along(x, spec, axes, draws)
    monkeypatch.setenv("QUANTCTL_KERNELS", "reference")
    assert len(results) == len(axes)
    for axis, draw, result in zip(axes, draws, results, strict=True):
        same(result, quantize_dequantize(x, spec, axis, rng=draw))


@by_spec
@pytest.mark.parametrize(("shape", "axis"), [((4, 32), 7), ((4, 32), 2), ((4, 32), -3), ((), 0), ((), -1)], ids=str)
def test_an_axis_that_is_not_there(spec, shape, axis) -> None:
    x = torch.ones(shape)
    for call in (quantize_dequantize, encode, measure):
        with pytest.raises(QuantctlError, match=r"no axis|no axes") as refusal:
            call(x, spec, axis)
        assert str(list(shape)) in str(refusal.value)


ODD = {
    "float64": lambda: torch.ones(4, 32, dtype=torch.float64),
    "integers": lambda: torch.ones(4, 32, dtype=torch.int32),
    "booleans": lambda: torch.ones(4, 32, dtype=torch.bool),
    "complex": lambda: torch.ones(4, 32, dtype=torch.complex64),
    "sparse": lambda: torch.eye(32).to_sparse(),
    "compressed": lambda: torch.eye(32).to_sparse_csr(),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(4, 32), torch.ones(3, 32)]),
    "jagged": lambda: torch.nested.nested_tensor([torch.ones(4, 32), torch.ones(3, 32)], layout=torch.jagged),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(4, 32), 0.1, 0, torch.qint8),
    "no tensor": lambda: [[1.0] * 32],
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("spec", ["mxfp8", "hifp8:scale=tensor"])
@pytest.mark.parametrize("call", [quantize_dequantize, encode, measure])
def test_what_cannot_be_quantized_is_refused(kind, spec, call) -> None:
    with pytest.raises(QuantctlError, match="cannot quantize"):
        call(ODD[kind](), spec, -1)


@by_spec
def test_lazily_negated_views(spec, same) -> None:
    """The imaginary part of a conjugate is a view whose elements are negated when they are read."""
    x = torch.complex(randn(3, 40), randn(3, 40, seed=1)).conj().imag
    assert x.is_neg()
    plain = x.clone()
    same(quantize_dequantize(x, spec, rng=DRAW), quantize_dequantize(plain, spec, rng=DRAW))
    same(decode(encode(x, spec, rng=DRAW)), quantize_dequantize(plain, spec, rng=DRAW))


# --- nothing to compute

NOTHING: dict[str, Callable[[], tuple[list[Tensor], Callable[[str], Tensor], Callable[[], Tensor]]]] = {}


def _nothing(name: str, operands: Callable[[], list[Tensor]], quantized: Any, stock: Any) -> None:
    NOTHING[name] = lambda: (operands(), quantized, stock)  # type: ignore[assignment,return-value]


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.permute(1, 2, 0, 3) for x in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).permute(2, 0, 1, 3)


for _shape in ((8, 0, 2, 32), (0, 2, 2, 32)):
    for _qk, _pv in (("{}", "none"), ("none", "{}"), ("{}", "{}")):
        _nothing(
            f"fused attention {_shape} qk={_qk} pv={_pv}",
            lambda shape=_shape: [leaf(*shape) for _ in range(3)],
            lambda q, k, v, spec, a=_qk, b=_pv: fused_attention(
                q, k, v, scale=1.0, causal=True, qk=a.format(spec), pv=b.format(spec)
            ),
            _attention,
        )
_nothing(
    "linear without tokens",
    lambda: [leaf(0, 3, 32), leaf(16, 32), leaf(16)],
    quantized_linear,
    torch.nn.functional.linear,
)
_nothing(
    "qk without a batch", lambda: [leaf(0, 4, 32), leaf(0, 32, 6)], lambda q, k, spec: qk(q, k, 1.0, spec), torch.bmm
)
_nothing("qk without keys", lambda: [leaf(2, 4, 32), leaf(2, 32, 0)], lambda q, k, spec: qk(q, k, 1.0, spec), torch.bmm)
_nothing("pv without a batch", lambda: [leaf(0, 4, 32), leaf(0, 32, 6)], pv, torch.bmm)
_nothing("pv without keys", lambda: [leaf(2, 4, 0), leaf(2, 0, 6)], pv, torch.bmm)
for _counts in ([0, 0], [0, 3]):
    _nothing(
        f"experts with {_counts} tokens",
        lambda counts=_counts: [leaf(sum(counts), 32), leaf(16, 32)],
        lambda x, w, spec, counts=_counts: grouped_linear(x, [w, w], counts, spec),
        lambda x, w: x @ w.t(),
    )


@pytest.mark.parametrize("spec", ["mxfp8", "nvfp4", "hifp8:scale=tensor", "mxfp4:round=stochastic"])
@pytest.mark.parametrize("name", NOTHING)
@pytest.mark.parametrize("kernels", ["reference", "triton"])
def test_nothing_to_compute(name, spec, kernels, monkeypatch) -> None:
    """Shapes as the stock product's; gradients of what is there are zero."""
    if kernels == "triton" and "attention" in name and "pv=none" in name and spec != "mxfp8":
        pytest.skip("the library's attention, once is enough")
    monkeypatch.setenv("QUANTCTL_KERNELS", kernels)
    results = []
    for quantized in (True, False):
        operands, call, stock = NOTHING[name]()
        output = call(*operands, spec=spec) if quantized else stock(*operands)
        output.sum().backward()
        results.append((output.shape, [operand.grad.shape for operand in operands]))
    assert results[0] == results[1]
    assert all(not operand.grad.any() for operand in NOTHING[name]()[0] if operand.grad is not None)


# --- torch's modes and defaults


@pytest.fixture
def default_dtype() -> Iterator[Callable[[torch.dtype], None]]:
    yield torch.set_default_dtype
    torch.set_default_dtype(torch.float32)


@pytest.fixture(params=["reference", "cpu"])
def kernels(request, monkeypatch) -> None:
    monkeypatch.setenv("QUANTCTL_KERNELS", request.param)


AMONG_DEFAULTS = ("hifp8", "hifp8:scale=tensor", "nvfp4", "mxfp4:round=stochastic")


@by_product
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_the_default_dtype_plays_no_role(name, dtype, default_dtype, kernels, same) -> None:
    for spec in AMONG_DEFAULTS:
        expected = step(name, spec)
        default_dtype(dtype)
        _forget()
        actual = step(name, spec)
        default_dtype(torch.float32)
        for a, b in zip(actual, expected, strict=True):
            same(a, b)


@by_product
def test_the_default_device_plays_no_role(name, kernels, same) -> None:
    for spec in (*AMONG_DEFAULTS, "mxfp8", "int8:block=tensor", "hifp4", "mxfp4:hadamard=16"):
        try:
            expected = step(name, spec)
        except QuantctlError:  # not on this axis
            continue
        _forget()
        torch.manual_seed(0)
        operands, call = PRODUCTS[name][0](), PRODUCTS[name][1]
        with torch.device("meta"):
            output = call(*operands, spec)
            output.float().sin().sum().backward()
        for actual, wanted in zip([output.detach(), *(x.grad for x in operands)], expected, strict=True):
            assert actual.device.type == "cpu"
            same(actual, wanted)


def _forget() -> None:
    """Every table is made anew, as if this process had not computed yet."""
    from quantctl.kernels import tables

    tables.forget()


def _fake() -> None:
    with FakeTensorMode():
        _steps(torch.randn)


def _inference() -> None:
    with torch.inference_mode():
        quantize_dequantize(torch.randn(4, 32), "hifp8")
        measure(torch.randn(4, 32), "nvfp4", -1)


def _meta_context() -> None:
    with torch.device("meta"):
        _steps(lambda *shape: torch.randn(*shape, device="cpu"))
        _steps(torch.randn)


def _default_device() -> None:
    torch.set_default_device("meta")
    try:
        _steps(lambda *shape: torch.randn(*shape, device="cpu"))
    finally:
        torch.set_default_device(None)


def _functorch() -> None:
    torch.func.grad(lambda x: (x * quantize_dequantize(x, "hifp8")).sum())(torch.randn(4, 32))
    torch.vmap(lambda x: quantize_dequantize(x, "hifp8"))(torch.randn(4, 32))


def _steps(new: Callable[..., Tensor]) -> None:
    for spec in ("hifp8", "hifp8:scale=tensor", "nvfp4", "mxfp8", "mxfp4:round=stochastic"):
        x, w = new(6, 32).requires_grad_(), new(16, 32).requires_grad_()
        quantized_linear(x, w, None, spec).sum().backward()
        assert x.grad is not None
        assert x.grad.shape == x.shape
        grouped_linear(x, [w, w], [4, 2], spec).sum().backward()


@pytest.mark.parametrize("first", [_fake, _inference, _meta_context, _default_device, _functorch])
def test_nothing_kept_from_a_mode_reaches_a_real_step(first, kernels, same) -> None:
    expected = [step("linear", spec) for spec in ("hifp8", "nvfp4")]
    _forget()
    first()
    actual = [step("linear", spec) for spec in ("hifp8", "nvfp4")]
    measure(randn(4, 32), "hifp8", -1).read()
    for a, b in zip(actual, expected, strict=True):
        for x, y in zip(a, b, strict=True):
            same(x, y)
    first()  # and the other way round: with everything kept


def test_a_forked_worker_and_its_parent() -> None:
    program = (
        "import os, torch\n"
        "from quantctl.kernels.formats.quantize import quantize_dequantize as q\n"
        "x = torch.ones(4, 32)\n"
        "before = q(x, 'hifp8')\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(0 if torch.equal(q(x, 'hifp8'), before) and torch.equal(q(x, 'nvfp4'), x) else 1)\n"
        "raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0


def test_torch_func_says_that_it_cannot_go_through_a_product() -> None:
    with pytest.raises(RuntimeError, match="setup_context"):
        torch.func.grad(lambda x: quantized_linear(x, randn(16, 32), None, "mxfp8").sum())(randn(4, 32))


def test_a_model_that_was_trained_can_be_copied_and_pickled(monkeypatch) -> None:
    monkeypatch.setenv("QUANTCTL_WEIGHT_REUSE", "1")
    layer = torch.nn.Linear(32, 16)
    quantized_linear(randn(4, 32), layer.weight, layer.bias, "mxfp8").sum().backward()
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(
            quantized_linear(randn(4, 32), other.weight, other.bias, "mxfp8"),
            quantized_linear(randn(4, 32), layer.weight, layer.bias, "mxfp8"),
        )


def test_backwards_in_several_threads(same) -> None:
    import threading

    expected, found = step("linear", "hifp8"), []
    operands = [PRODUCTS["linear"][0]() for _ in range(4)]
    outputs = [quantized_linear(*each, None, "hifp8").sin().sum() for each in operands]
    threads = [threading.Thread(target=output.backward) for output in outputs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in operands:
        found.append([operand.grad for operand in each])
    for gradients in found:
        for a, b in zip(gradients, expected[1:], strict=True):
            same(a, b)


# --- autocast

STOCK: dict[str, Callable[..., Tensor]] = {
    "linear": torch.nn.functional.linear,
    "linear with a bias": torch.nn.functional.linear,
    "qk": lambda q, k: torch.baddbmm(q.new_empty(1, 1, 1), q, k, beta=0.0, alpha=0.5),
    "pv": torch.bmm,
    "grouped": lambda x, a, b: torch.cat([x[:4] @ a.t(), x[4:] @ b.t()]),
    "fused qk": _attention,
    "fused pv": _attention,
}


@by_product
@pytest.mark.parametrize("bwd", ["dequantized", "quantized", "high_precision"])
def test_under_autocast_results_have_the_stock_products_dtypes(name, bwd) -> None:
    if bwd == "quantized" and name not in GRADIENTS_QUANTIZED:
        pytest.skip("refused")
    autocast = torch.autocast("cpu", dtype=torch.bfloat16)
    operands = PRODUCTS[name][0]()
    with autocast:
        stock = STOCK[name](*operands)
    stock.float().sin().sum().backward()
    expected = [stock.detach(), *(operand.grad for operand in operands)]
    for spec in (f"mxfp8:bwd={bwd}", f"hifp8:bwd={bwd}"):
        actual = step(name, spec, autocast)
        assert [x.dtype for x in actual] == [x.dtype for x in expected]


@pytest.mark.parametrize("name", ["linear", "qk", "pv", "grouped"])
def test_under_autocast_a_product_of_what_the_format_holds_is_stock(name, same) -> None:
    """Operands that bf16 holds: what autocast gives is what a training in bf16 computes."""
    spec = "mxfp8:bwd=dequantized"
    actual = step(name, spec, torch.autocast("cpu", dtype=torch.bfloat16))
    torch.manual_seed(0)
    operands = [quantize(x) for x, quantize in zip(PRODUCTS[name][0](), _quantizers(name), strict=True)]
    output = STOCK[name](*(x.bfloat16() for x in operands))
    same(actual[0], output.detach())


def _quantizers(name: str) -> list[Callable[[Tensor], Tensor]]:
    last, middle = (lambda x: quantize_dequantize(x, "mxfp8", -1)), (lambda x: quantize_dequantize(x, "mxfp8", 1))
    return {
        "linear": [last, last],
        "qk": [last, middle],
        "pv": [last, middle],
        "grouped": [last, last, last],
    }[name]


# --- gradients of gradients


@by_product
def test_a_gradient_that_is_to_be_differentiated_is_refused(name) -> None:
    operands = PRODUCTS[name][0]()
    output = PRODUCTS[name][1](*operands, "mxfp8:bwd=dequantized")
    with pytest.raises(QuantctlError, match="second time") as refusal:
        torch.autograd.grad(output.sum(), operands, create_graph=True)
    assert "create_graph" in str(refusal.value)


@pytest.mark.parametrize("name", ["linear", "qk", "pv", "grouped"])
def test_one_backward_more_is_none_of_it(name) -> None:
    operands = PRODUCTS[name][0]()
    output = PRODUCTS[name][1](*operands, "mxfp8")
    output.sum().backward(retain_graph=True)
    output.sum().backward()


@by_product
def test_an_operand_written_to_before_the_backward_is_noticed(name) -> None:
    if name in ("linear", "linear with a bias", "grouped", "fused qk"):
        pytest.skip("keeps its own copy of that operand")
    operands = PRODUCTS[name][0]()
    first = operands[0] * 1.0
    output = PRODUCTS[name][1](first, *operands[1:], "mxfp8")
    first.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


# --- devices that flush subnormals

TINY = torch.finfo(torch.float32).tiny


@pytest.fixture
def flushed() -> Iterator[Callable[[Callable[[], Any]], Any]]:
    """Function: what a computation gives while this processor takes subnormal operands and results for zeros."""

    def run(compute: Callable[[], Any]) -> Any:
        if not torch.set_flush_denormal(True):
            pytest.skip("this processor keeps subnormals")
        try:
            assert torch.tensor([TINY]).mul(0.5).item() == 0
            return compute()
        finally:
            torch.set_flush_denormal(False)

    yield run
    torch.set_flush_denormal(False)


def small(dtype: torch.dtype) -> Tensor:
    """Rows of every magnitude from 2^-126 up to 1, none subnormal; and blocks of one value."""
    rows = randn(127, 64, seed=5)
    x = (rows * 2.0 ** torch.arange(-126, 1.0)[:, None]).to(dtype).float()
    x = torch.where(x.abs() < TINY, TINY, x)
    x[:32, :32] = 2.0 ** torch.arange(-126, -94.0)[:, None]
    return x.to(dtype)


@by_spec
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("axis", [0, 1])
def test_flushing_changes_no_bit(spec, dtype, axis, flushed, same) -> None:
    """Of normal inputs: the scale 2^-127 and results below 2^-126 are no operands of floating-point operations."""
    x = small(dtype)
    for part in (x, x[:40], x[:24]):  # a scale of the whole tensor, of smaller and smaller ones
        expected = quantize_dequantize(part, spec, axis, rng=DRAW)
        same(flushed(lambda part=part: quantize_dequantize(part, spec, axis, rng=DRAW)), expected)
        same(flushed(lambda part=part: decode(encode(part, spec, axis, rng=DRAW))), expected)
        packed = flushed(lambda part=part: quantize_dequantize_packed(part, parse(spec), axis, (DRAW, DRAW)))
        same(packed[0], quantize_dequantize(part, spec, 1, rng=DRAW))
        same(flushed(lambda packed=packed: dequantize(packed[1], packed[2])), expected)


@by_spec
def test_where_they_are_flushed_subnormal_inputs_count_as_zeros(spec, flushed, same) -> None:
    x = small(torch.float32)
    x[:, ::3] = TINY / 4
    x[5:7] = -TINY / 8
    zeros = torch.where(x.abs() < TINY, x * 0.0, x)
    actual = flushed(lambda: quantize_dequantize(x, spec, 1, rng=DRAW))
    same(actual, quantize_dequantize(zeros, spec, 1, rng=DRAW))


def test_a_block_of_small_numbers(flushed, same) -> None:
    x = torch.full((1, 32), 2.0**-121)
    same(flushed(lambda: quantize_dequantize(x, "mxfp8")), x)


@pytest.mark.parametrize("name", ["linear", "grouped", "pv"])
def test_flushing_changes_no_product_of_normal_numbers(name, flushed, same) -> None:
    for spec in ("mxfp8", "nvfp4", "hifp8:scale=tensor"):
        expected = step(name, spec)
        for a, b in zip(flushed(lambda spec=spec: step(name, spec)), expected, strict=True):
            same(a, b)
