"""The kept quantization of a weight: equal results, and never a stale one."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import Tensor

from quantctl.errors import QuantctlError
from quantctl.kernels.formats import quantize
from quantctl.kernels.formats.quantize import quantize_dequantize
from quantctl.kernels.products import linear, reuse
from quantctl.kernels.products.linear import quantized_linear
from quantctl.spec import products

SPEC = "mxfp8"


@pytest.fixture(autouse=True)
def _asked_for_and_nothing_kept(monkeypatch):
    monkeypatch.setenv("QUANTCTL_WEIGHT_REUSE", "1")
    reuse.forget()
    yield
    reuse.forget()


@pytest.fixture
def passes(monkeypatch) -> list[tuple[int, ...]]:
    """The shapes of weights that were quantized, one entry a pass."""
    seen: list[tuple[int, ...]] = []
    original = quantize.quantize_dequantize_along

    def counted(x, *arguments, **options):
        seen.append(tuple(x.shape))
        return original(x, *arguments, **options)

    monkeypatch.setattr(reuse, "quantize_dequantize_along", counted)
    return seen


def weight(seed: int = 0) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.randn(96, 64, generator=torch.Generator().manual_seed(seed)))


def kept(w: Tensor, product: str = "fprop", spec: str = SPEC) -> Tensor:
    return reuse.quantized_weight(w, products(spec), product)


def is_fresh(w: Tensor, spec: str = SPEC) -> bool:
    with torch.no_grad():
        expected = [quantize_dequantize(w.detach().clone(), spec, axis) for axis in (0, 1)]
    return all(map(torch.equal, (kept(w, product, spec) for product in ("dgrad", "fprop")), expected))


def test_one_pass_serves_both_directions_of_all_micro_batches(passes) -> None:
    w = weight()
    for _ in range(3):
        x = torch.randn(33, 64, requires_grad=True)
        quantized_linear(x, w, None, "mxfp8").sum().backward()
    assert passes == [(96, 64)]


@pytest.mark.parametrize("spec", ["mxfp8", "mxfp4:scale=floor", "nvfp4", "hifp8", "mxfp8:bwd=dequantized"])
def test_results_and_gradients_are_those_without_reuse(spec, monkeypatch) -> None:
    def train() -> list[Tensor]:
        w = weight()
        optimizer = torch.optim.AdamW([w], lr=0.1)
        for step in range(3):
            optimizer.zero_grad()
            for batch in range(2):
                x = torch.randn(40, 64, generator=torch.Generator().manual_seed(10 * step + batch))
                quantized_linear(x.requires_grad_(), w, None, spec).square().sum().backward()
            optimizer.step()
        return [w.detach(), w.grad, x.grad]

    with_reuse = train()
    monkeypatch.setenv("QUANTCTL_WEIGHT_REUSE", "0")
    without = train()
    assert all(map(torch.equal, with_reuse, without))


def by_version(w):
    with torch.no_grad():
        w.mul_(-3)


def by_new_data(w):
    w.data = torch.randn_like(w)


def by_copy(w):
    with torch.no_grad():
        w.copy_(torch.randn_like(w))


def by_state_dict(w):
    torch.nn.ParameterList([w]).load_state_dict({"0": torch.randn_like(w)})


def by_transposed_data(w):
    w.data = w.data.t().contiguous().t()


def by_other_dtype(w):
    w.data = w.data.bfloat16()


CHANGES = [by_version, by_new_data, by_copy, by_state_dict, by_transposed_data, by_other_dtype]


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_a_changed_weight_is_quantized_again(change) -> None:
    w = weight()
    assert is_fresh(w)
    change(w)
    assert is_fresh(w)


@pytest.mark.parametrize(
    "optimizer", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adagrad], ids=lambda o: o.__name__
)
@pytest.mark.parametrize("foreach", [False, True], ids="foreach={}".format)
def test_an_optimizer_step_is_seen(optimizer, foreach) -> None:
    w = weight()
    step = optimizer([w], lr=0.5, foreach=foreach)
    for _ in range(3):
        assert is_fresh(w)
        w.grad = torch.randn_like(w)
        step.step()
    assert is_fresh(w)


def test_a_weight_in_a_buffer_that_is_written_after_the_step_of_a_main_copy_is_seen() -> None:
    """As in Megatron: weights are views into one buffer, the optimizer steps fp32 copies, and the buffer is written
    through another tensor, which leaves the weight's version and address as they were."""
    buffer = torch.randn(2 * 96 * 64).bfloat16()
    weights = [torch.nn.Parameter(torch.empty(0)) for _ in range(2)]
    for w, piece in zip(weights, buffer.chunk(2), strict=True):
        w.data = piece.view(96, 64)
    main = buffer.float().requires_grad_()
    optimizer = torch.optim.Adam([main], lr=0.5)
    before = [(w._version, w.data_ptr()) for w in weights]
    for _ in range(2):
        assert all(map(is_fresh, weights))
        main.grad = torch.randn_like(main)
        optimizer.step()
        buffer.copy_(main.detach())
        assert all(map(is_fresh, weights))
    assert [(w._version, w.data_ptr()) for w in weights] == before


def test_writes_that_torch_does_not_see_need_forget() -> None:
    w = weight()
    assert is_fresh(w)
    w.data.neg_()
    assert not is_fresh(w)
    reuse.forget()
    assert is_fresh(w)


def test_a_swap_to_a_new_tensor_at_a_freed_address_is_seen() -> None:
    w = weight()
    address = w.data_ptr()
    assert is_fresh(w)
    for seed in range(20):  # an allocator hands out a freed address again
        w.data = torch.zeros(1)
        w.data = torch.randn(96, 64, generator=torch.Generator().manual_seed(seed))
        assert w.data_ptr() != address or is_fresh(w)
    assert is_fresh(w)


def test_what_is_kept_dies_with_the_weight_and_at_a_step() -> None:
    w = weight()
    kept(w)
    assert reuse.nbytes() == 2 * w.numel() * w.element_size()
    del w
    gc.collect()
    assert reuse.nbytes() == 0
    w = weight()
    kept(w)
    w.grad = torch.zeros_like(w)
    torch.optim.SGD([w], lr=0.1).step()
    assert reuse.nbytes() == 0


@pytest.mark.parametrize(("spec", "copies"), [("mxfp8", 2), ("nvfp4", 2), ("hifp8", 1), ("mxfp8:bwd=dequantized", 1)])
def test_memory(spec, copies) -> None:
    w = weight()
    kept(w, spec=spec)
    assert reuse.nbytes() == copies * w.numel() * w.element_size()


def test_two_specs_of_one_weight() -> None:
    w = weight()
    for spec in (SPEC, "mxfp4", SPEC):
        assert is_fresh(w, spec)


@pytest.mark.parametrize("case", ["stochastic", "frozen", "no leaf", "switched off"])
def test_nothing_is_kept_of(case, monkeypatch) -> None:
    w, spec = weight(), SPEC
    if case == "stochastic":
        spec = "mxfp8:round=stochastic"
        assert not torch.equal(kept(w, spec=spec), kept(w, spec=spec))
    elif case == "frozen":
        w.requires_grad_(False)
    elif case == "no leaf":
        w = w * 1
    else:
        monkeypatch.delenv("QUANTCTL_WEIGHT_REUSE")
    kept(w, spec=spec)
    assert reuse.nbytes() == 0


def test_an_unknown_switch_is_refused(monkeypatch) -> None:
    monkeypatch.setenv("QUANTCTL_WEIGHT_REUSE", "yes")
    with pytest.raises(QuantctlError, match="QUANTCTL_WEIGHT_REUSE=yes"):
        kept(weight())


def test_a_changed_gradient_is_quantized_again_for_wgrad() -> None:
    """dgrad leaves dY along tokens on ctx; wgrad takes it only if dY is what it was."""
    from types import SimpleNamespace

    x, w, dy = torch.randn(40, 64), weight(), torch.randn(40, 96)
    for change in (lambda t: t, lambda t: t.mul_(2), lambda t: t.clone(), lambda t: t[:, :64]):
        ctx = SimpleNamespace(quant_site="linear", quant_type="mxfp8", needs_input_grad=(True, True))
        linear.fprop(ctx, x, w)
        linear.dgrad(ctx, dy, w)
        assert ctx.quant_dy is not None
        changed = change(dy)
        actual, _ = linear.wgrad_operands(ctx, changed, x)
        assert torch.equal(actual, quantize_dequantize(changed, SPEC, 0))
        assert ctx.quant_dy is None
