"""The three products of a linear layer, as the patched layers of Megatron call them.

    fprop  Y  = X W^T   reduces in-features:  X along its last axis, W along its last
    dgrad  dX = dY W    reduces out-features: dY along its last axis, W along its first
    wgrad  dW = dY^T X  reduces tokens:       dY and X along the flattened tokens

These are up to six quantizations (arXiv 2506.08027), each to its operand's own format, in as few passes as memory and
formats allow: X, dY and W are read once for both of theirs where those are equal, and W only once a step (reuse.py).
What wgrad needs of X waits for it in the format's own bits (packed.py), not in those of X. The product is the
library's, on dequantized operands: every value of the formats is exact in bf16 (but NVFP4's, see there), so this
emulates the format's own product with the library's accumulation. `ctx` is the autograd context of the layer: it has
quant_site (linear, lm_head), quant_type, the selector's string, and where the model has named its modules quant_layer
(modules.py). The forward asks once which spec holds now, and leaves the answer on ctx for its backward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from quantctl.errors import QuantctlError
from quantctl.kernels.dispatch import CPU, REFERENCE, family_of
from quantctl.kernels.formats.quantize import quantize_dequantize_along, quantize_dequantize_both
from quantctl.kernels.measure import recorder
from quantctl.kernels.products import operands
from quantctl.kernels.products.draws import LinearDraws
from quantctl.kernels.products.gradient_mode import keeps_autocast, once, refuse_second_gradient
from quantctl.kernels.products.modules import Named, spec_now
from quantctl.kernels.products.packed import Packed, dequantize, is_recorded, quantize_dequantize_kept
from quantctl.kernels.products.plan import plan_of
from quantctl.kernels.products.reuse import quantized_weight, weight_ahead
from quantctl.kernels.products.rows import quantized_rows, rows_to_fill, tokens_of, with_rows
from quantctl.kernels.tables import has_values
from quantctl.spec import literal


def fprop_operands(
    ctx: Any, total_input: Tensor, weight: Tensor, save: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """X [..., in] and W [out, in] for X W^T, whichever GEMM then computes it. Keeps specs and draws on ctx.

    save: what the layer has to save for its backward, the input and the weight as it has them; `saved` gives them
    back. If the input is total_input itself, it is saved as wgrad will want it, packed, out of the same read of X.
    Not packed: an input of which total_input is the gathered whole (sequence parallelism), gaps between rows, an
    operand that wgrad takes as it is, and what no backward will follow.

    Raises QuantctlError for an unknown spec, and for --defer-embedding-wgrad-compute, whose
    wgrad is computed elsewhere.
    """
    ctx.quant_spec = spec_now(ctx.quant_type, ctx.quant_site, getattr(ctx, "quant_layer", None))
    plan = ctx.quant_plan = plan_of(ctx.quant_spec, ctx.quant_site)
    specs = plan.specs
    if not plan.is_none and getattr(ctx, "grad_output_buffer", None) is not None:
        raise QuantctlError(
            f"{ctx.quant_site}={ctx.quant_type}: --defer-embedding-wgrad-compute computes the output layer's weight "
            "gradient outside of the layer, where it would stay unquantized",
            f"drop --defer-embedding-wgrad-compute, or set {ctx.quant_site} to none",
        )
    filled = ctx.quant_filled = rows_to_fill(ctx, total_input, weight)
    ctx.quant_tally = operands.tally_of(ctx.quant_site, ctx.quant_spec, getattr(ctx, "quant_layer", None))
    _count(ctx, "fprop")
    draws = plan.draws or LinearDraws.of(specs)
    ctx.quant_draws, ctx.quant_layout, ctx.quant_packed = draws, None, None
    by = ctx.quant_by = REFERENCE if plan.is_none else family_of(total_input)
    recorded = is_recorded(ctx)
    needs_input, needs_weight = getattr(ctx, "needs_input_grad", (False, False))[:2]
    waits = recorded and needs_weight and not filled
    if save is None or plan.kept is None or not waits or not _packable(total_input, save[0]):
        x = quantized_rows(total_input, specs.fprop[0].spec, draws.x)
        if save is not None:
            ctx.save_for_backward(*save)
    else:
        x, packed, ctx.quant_layout = quantize_dequantize_kept(
            total_input, plan.kept, specs, (draws.x, draws.tokens), by
        )
        ctx.quant_unpacked = _without_columns(total_input, by)
        ctx.save_for_backward(*packed, save[1])
    ctx.quant_place = recorder.place(ctx.quant_site) if recorder.ON else None
    if ctx.quant_place is not None:
        recorder.observe(ctx.quant_place, "fprop", specs, (tokens_of(total_input), -1), (weight, 1))
        begin = operands.begin(specs.wgrad[1], total_input, x)
        recorder.observe(ctx.quant_place, "wgrad", specs, None, (with_rows(tokens_of(begin), filled), 0))
    w, ctx.quant_weight = weight_ahead(weight, plan, draws.weight, recorded and needs_input, by)
    return x, w


def _count(ctx: Any, product: str) -> None:
    tally = ctx.quant_tally
    if torch.compiler.is_compiling():
        operands.count(ctx.quant_site, product, ctx.quant_spec, getattr(ctx, "quant_layer", None))
    elif tally is not None:
        tally.add(product)


def _packable(total_input: Tensor, own_input: Tensor) -> bool:
    return total_input is own_input and total_input.is_contiguous()


def saved(ctx: Any) -> tuple[Tensor, Tensor]:
    """The input and the weight that fprop has saved; to be called once a backward, before the other functions.

    In the place of a packed input there is a tensor of its dtype, device and leading dimensions that has no columns:
    wgrad_operands takes the values from ctx, and a weight gradient that is computed without it fits no weight.
    """
    tensors = ctx.saved_tensors
    if ctx.quant_layout is None:
        own_input, weight = tensors
        return own_input, weight
    ctx.quant_packed = Packed(*tensors[:-1])
    return ctx.quant_unpacked, tensors[-1]


def _without_columns(x: Tensor, by: str) -> Tensor:
    """A tensor of x's dtype, device and leading dimensions."""
    sizes = (*x.shape[:-1], 0)
    # the call that has just made the rooms of results: all that it takes is in the caches, as it is nowhere else
    return torch.empty_strided(sizes, sizes, dtype=x.dtype, device="cpu") if by == CPU else x.new_empty(sizes)


def fprop(ctx: Any, total_input: Tensor, weight: Tensor, save: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """X W^T: total_input [..., in], weight [out, in] -> [..., out]. save: as in fprop_operands."""
    x, w = fprop_operands(ctx, total_input, weight, save)
    return torch.matmul(x, w.t())


def dgrad(ctx: Any, grad_output: Tensor, weight: Tensor) -> Tensor:
    """dY W: grad_output [..., out], weight [out, in] -> [..., in]."""
    specs = ctx.quant_plan.specs
    _begin_backward(ctx, "dgrad")
    if ctx.quant_place is not None:
        begin = operands.begin(specs.dgrad[1], weight, quantized_weight(weight, specs, "fprop", ctx.quant_draws.weight))
        recorder.observe(ctx.quant_place, "dgrad", specs, (tokens_of(grad_output), -1), (begin, 0))
    dy = _gradient_for_dgrad(ctx, grad_output)
    w, ctx.quant_weight = ctx.quant_weight, None  # its memory is free behind this
    if w is None:
        w = quantized_weight(weight, specs, "dgrad", ctx.quant_draws.weight, ctx.quant_draws.signs[1])
    return dy.matmul(w)


def _begin_backward(ctx: Any, product: str) -> None:
    if not ctx.quant_plan.is_none:
        refuse_second_gradient(ctx.quant_site)
        _count(ctx, product)


def _wgrad_follows(ctx: Any) -> bool:
    return any(getattr(ctx, "needs_input_grad", ())[1:2])


def _gradient_for_dgrad(ctx: Any, grad_output: Tensor) -> Tensor:
    """dY along out-features. If wgrad is to follow in one format, ctx gets dY along tokens, too: one pass over dY."""
    plan, draws = ctx.quant_plan, ctx.quant_draws
    spec = plan.specs.dgrad[0].spec
    separately = plan.gradient is None or ctx.quant_filled or not grad_output.is_contiguous()
    separately = separately or torch.compiler.is_compiling()  # a graph knows no addresses
    draw = draws.gradient(spec, "dgrad")
    if separately or not _wgrad_follows(ctx):
        return quantized_rows(grad_output, spec, draw)
    rngs = (draw, draws.gradient(spec, "wgrad"))
    by = ctx.quant_by if has_values(grad_output) else None  # it may be a level of torch.func where the input was none
    dy, by_tokens = quantize_dequantize_both(grad_output, spec, rngs, gaps=True, by=by)
    ctx.quant_dy = (grad_output, grad_output._version, by_tokens)
    return dy


def _gradient_for_wgrad(ctx: Any, grad_output: Tensor) -> Tensor:
    """dY [tokens, out] along tokens: what dgrad has left on ctx, if that was made of the same values."""
    kept, ctx.quant_dy = getattr(ctx, "quant_dy", None), None
    if kept is not None:
        source, version, by_tokens = kept
        same_memory = source.data_ptr() == grad_output.data_ptr() and grad_output.is_contiguous()
        if same_memory and by_tokens.shape == grad_output.shape and source._version == version:
            return by_tokens
    spec = ctx.quant_plan.specs.wgrad[0].spec
    draw = ctx.quant_draws.gradient(spec, "wgrad")
    return quantize_dequantize_along(with_rows(grad_output, ctx.quant_filled), spec, (0,), (draw,), gaps=True)[0]


def wgrad_operands(ctx: Any, grad_output: Tensor, total_input: Tensor) -> tuple[Tensor, Tensor]:
    """dY [tokens, out] and X [tokens, in] for dY^T X, whichever GEMM then computes it. A packed X is unpacked here.

    Behind an expert's tokens both have as many rows of zeros as a Hadamard transform along them wants.
    The bias gradient is to be taken from the caller's grad_output, not from this one.
    """
    specs = ctx.quant_plan.specs
    _begin_backward(ctx, "wgrad")
    packed, ctx.quant_packed = ctx.quant_packed, None
    if packed is not None:
        x = dequantize(packed, ctx.quant_layout)
    else:
        draws = ctx.quant_draws.x, ctx.quant_draws.tokens
        x = with_rows(total_input, ctx.quant_filled)
        x = operands.forward_operand_in_backward(x, specs.fprop[0], specs.wgrad[1], (-1, 0), draws)
    if ctx.quant_place is not None:
        recorder.observe(ctx.quant_place, "wgrad", specs, (with_rows(grad_output, ctx.quant_filled), 0), None)
    return _gradient_for_wgrad(ctx, grad_output), x


def check_head(layer: Any, spec: str) -> None:
    """Raises QuantctlError if a model's output layer is not one of Megatron's own, whose products come here."""
    names = [base.__name__ for base in type(layer).__mro__]
    if "ColumnParallelLinear" not in names and not literal(spec, "lm_head").is_none:
        raise QuantctlError(
            f"lm_head={spec}: the output layer is a {names[0]}, which computes its products itself",
            "drop --fp8-output-proj, or set lm_head to none",
        )


class _QuantizedLinear(torch.autograd.Function):
    @staticmethod
    @keeps_autocast
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, spec: str, site: str, layer: Named | None
    ) -> Tensor:
        ctx.quant_type, ctx.quant_site, ctx.site, ctx.quant_layer = spec, site, site, layer
        x_operand, w_operand = fprop_operands(ctx, x, weight, (x, weight))
        output = torch.matmul(x_operand, w_operand.t())
        return output if bias is None else output + bias.to(output.dtype)

    @staticmethod
    @once
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = saved(ctx)
        needs_x, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        grad_2d = grad_output.reshape(-1, grad_output.shape[-1])
        grad_x = dgrad(ctx, grad_output, weight) if needs_x else None
        grad_weight = None
        if needs_weight:
            dy, x_2d = wgrad_operands(ctx, grad_2d, x.reshape(len(grad_2d), x.shape[-1]))
            grad_weight = dy.t().matmul(x_2d)
        return grad_x, grad_weight, grad_2d.sum(dim=0) if needs_bias else None, None, None, None


def quantized_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, spec: str, site: str = "linear", layer: Named | None = None
) -> Tensor:
    """torch.nn.functional.linear with its three products as `spec` says: x [..., in], weight [out, in], bias [out].

    layer: the module that it belongs to, where the model has named it.
    """
    output: Tensor = _QuantizedLinear.apply(x, weight, bias, spec, site, layer)
    return output
