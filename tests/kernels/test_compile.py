"""What torch.compile and CUDA graphs ask of the products: one graph with the same bits, no look at the device's values,
and the same bits every time. CUDA graphs themselves need a GPU; here it is their conditions that are checked."""

from __future__ import annotations

import shutil
import warnings

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from quantctl.kernels.formats import rounding
from quantctl.kernels.formats.quantize import quantize_dequantize
from quantctl.kernels.measure import hits
from quantctl.kernels.products import attention
from quantctl.kernels.products.grouped import grouped_linear
from quantctl.kernels.products.groups import Groups
from quantctl.kernels.products.linear import quantized_linear

ENDS = torch.tensor([20, 20, 33], dtype=torch.int32)


def quantize(x: Tensor, w: Tensor, spec: str) -> Tensor:
    return quantize_dequantize(x, spec, 0)


def linear(x: Tensor, w: Tensor, spec: str) -> Tensor:
    return quantized_linear(x, w, None, spec)


def qk(x: Tensor, w: Tensor, spec: str) -> Tensor:
    return attention.qk(x[None], w.t()[None], 0.5, spec)


def pv(x: Tensor, w: Tensor, spec: str) -> Tensor:
    return attention.pv(x[None], w.t()[None], spec)


def grouped(x: Tensor, w: Tensor, spec: str) -> Tensor:
    """With counts that only the device knows."""
    return grouped_linear(x, list(w.split(32)), Groups(33, ENDS, None), spec)


PRODUCTS = {"linear": linear, "qk": qk, "pv": pv, "grouped": grouped}
FUNCTIONS = {"quantize": quantize, **PRODUCTS}


def step(function, spec: str) -> list[Tensor]:
    """Result and gradients."""
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(size, 64, generator=generator).requires_grad_() for size in (33, 96))
    y = function(x, w, spec)
    if not y.requires_grad:
        return [y]
    y.square().sum().backward()
    return [y.detach(), x.grad, w.grad]


def counted(function, spec: str) -> tuple[list[Tensor], dict]:
    """The step, and how often each product was counted in it."""
    before = hits.snapshot()
    values = step(function, spec)
    calls = {}
    for site, specs in hits.snapshot().items():
        for name, products in specs.items():
            for product, n in products.items():
                calls[site, name, product] = n - before.get(site, {}).get(name, {}).get(product, 0)
    return values, {key: n for key, n in calls.items() if n}


def compiled(function, backend: str, **options):
    torch._dynamo.reset()
    return torch.compile(function, backend=backend, **options)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["quantize", "linear", "grouped"])
def test_one_graph_with_the_kernels_of_a_cpu(name, monkeypatch, same) -> None:
    expected, calls = counted(FUNCTIONS[name], "mxfp8")
    monkeypatch.setenv("QUANTCTL_KERNELS", "cpu")
    actual, compiled_calls = counted(compiled(FUNCTIONS[name], "aot_eager", fullgraph=True), "mxfp8")
    for a, e in zip(actual, expected, strict=True):
        same(a, e)
    assert compiled_calls == calls


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("name", "spec"),
    [
        *(("quantize", spec) for spec in ("mxfp8", "nvfp4", "hifp8:scale=tensor")),
        *((name, "mxfp8:bwd=quantized") for name in PRODUCTS),
        ("linear", "mxfp4:dgrad.bwd=dequantized,wgrad.format=mxfp8"),
        ("grouped", "nvfp4:wgrad.hadamard=16,wgrad.signs=fixed"),
    ],
)
def test_one_graph_with_the_same_bits_and_counts(name, spec, same) -> None:
    expected, calls = counted(FUNCTIONS[name], spec)
    actual, compiled_calls = counted(compiled(FUNCTIONS[name], "aot_eager", fullgraph=True), spec)
    for a, e in zip(actual, expected, strict=True):
        same(a, e)
    assert compiled_calls == calls


@pytest.mark.releases
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_inductor_computes_the_same_bits(name, same) -> None:
    expected, calls = counted(FUNCTIONS[name], "mxfp8:bwd=quantized")
    actual, compiled_calls = counted(compiled(FUNCTIONS[name], "inductor", fullgraph=True), "mxfp8:bwd=quantized")
    for a, e in zip(actual, expected, strict=True):
        same(a, e)
    assert compiled_calls == calls


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_stochastic_rounding_breaks_the_graph_and_draws_anew_each_time() -> None:
    """A draw is the host's; a graph that had it in it would round the same way for ever."""
    spec = "mxfp4:round=stochastic,bwd=dequantized"
    with pytest.raises(torch._dynamo.exc.Unsupported):
        step(compiled(linear, "eager", fullgraph=True), spec)
    call, before = compiled(linear, "eager"), torch.get_rng_state()
    first, second = step(call, spec), step(call, spec)
    torch.set_rng_state(before)
    assert all(map(torch.equal, first, step(linear, spec)))
    assert not torch.equal(first[0], second[0])


class Operations(TorchDispatchMode):
    """Collects what is asked of the device."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.uploads: list[str] = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        name = function.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in arguments[1]
        )
        if by_mask or any(name.startswith(prefix) for prefix in WAIT):
            self.waits.append(name)
        if name == "lift_fresh":  # a tensor made of Python numbers
            self.uploads.append(name)
        return function(*arguments, **(options or {}))


WAIT = (
    *("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "argwhere", "unique", "_unique"),
    *("masked_select", "bincount", "histc", "segment_reduce"),
)
"""Results, or shapes of results, that depend on values: the host waits for them."""

SPECS = [
    f"{spec}bwd={bwd}"
    for spec in ("mxfp8:", "mxfp4:round=stochastic,", "nvfp4:", "hifp8:", "hifp8:scale=tensor,")
    for bwd in ("quantized", "dequantized", "high_precision")
]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_nothing_waits_for_the_device_or_uploads_to_it(name, spec, monkeypatch) -> None:
    monkeypatch.setattr(
        rounding, "known_zero", lambda by: False
    )  # as on every device but a CPU, where looking is cheap
    step(FUNCTIONS[name], spec)  # tables are made once
    with Operations() as seen:
        step(FUNCTIONS[name], spec)
    assert seen.waits == []
    assert seen.uploads == []


def test_the_mode_sees_what_it_is_to_see() -> None:
    x = torch.randn(4)
    for use in (
        lambda: x.sum().item(),
        lambda: x[x > 0],
        x.nonzero,
        lambda: bool(x[0] > 0),
    ):
        with Operations() as seen:
            use()
        assert seen.waits
    with Operations() as seen:
        torch.tensor([1.0])
    assert seen.uploads


@pytest.mark.parametrize("spec", SPECS[::2])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_two_runs_give_the_same_bits(name, spec) -> None:
    results = []
    before = torch.get_rng_state()
    for _ in range(2):
        torch.set_rng_state(before)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            torch.use_deterministic_algorithms(True)
            try:
                results.append(step(FUNCTIONS[name], spec))
            finally:
                torch.use_deterministic_algorithms(False)
    assert all(map(torch.equal, *results))
