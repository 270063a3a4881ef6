"""Selectors `linear` and `lm_head`: the three products of every linear layer of Megatron's local layers.

Both autograd functions behind ColumnParallelLinear and RowParallelLinear choose their products by `ctx.quant_type`,
which forward reads from the selector. The original statements stay on the `none` branch. The weight gradient is
quantized at one place, right behind prepare_input_tensors_for_wgrad_compute, because every variant of it (fused into
main_grad or plain) comes later; the bias gradient keeps the unquantized output gradient.

The functions do not know whose product they compute, so `quant_layer` travels as an argument from the layers' forward:
the name that quantctl.patches.names gives a module once its model is built, before that `lm_head` on an output layer
(quantctl.patches.lm_head), else nothing.
"""

from __future__ import annotations

from quantctl.patches.patch import LAYERS, Edit, Either, Kind, Patch

_HEADER = """
# quantctl: number formats of the linear layers' products; 'none' is the stock product.
# Change them with `quantctl set --linear SPEC --lm-head SPEC`, or here; `quantctl check` shows them.
custom_quant_type_linear = 'none'
custom_quant_type_lm_head = 'none'
"""

_TRAINED = "LinearWithGradAccumulationAndAsyncCommunication"
_FROZEN = "LinearWithFrozenWeight"

_CHOOSE = """
ctx.quant_layer = quant_layer
ctx.quant_site = getattr(quant_layer, 'site', quant_layer) or 'linear'
ctx.quant_type = custom_quant_type_lm_head if ctx.quant_site == 'lm_head' else custom_quant_type_linear"""
_FORMER_CHOOSE = """
ctx.quant_site = 'lm_head' if lm_head else 'linear'
ctx.quant_type = custom_quant_type_lm_head if lm_head else custom_quant_type_linear"""

_SAVE = """
if ctx.quant_type == 'none':
    ORIGINAL_STATEMENT
else:
    quant_save = (input, weight)  # fprop saves them, the input packed
"""

_FPROP = """
if ctx.quant_type == 'none':
    ORIGINAL_STATEMENT
else:
    from quantctl.kernels import linear as quantctl_linear  # missing? pip install quantctl, or set 'none'

    output = quantctl_linear.fprop(ctx, X, weight%s)
"""

_FPROP_OPERANDS = """
if ctx.quant_type != 'none':
    from quantctl.kernels import linear as quantctl_linear  # missing? pip install quantctl, or set 'none'

    X, weight = quantctl_linear.fprop_operands(ctx, X, weight%s)
ORIGINAL_STATEMENT
"""

_SAVED = """
if ctx.quant_type == 'none':
    ORIGINAL_STATEMENT
else:
    from quantctl.kernels import linear as quantctl_linear

    input, weight = quantctl_linear.saved(ctx)
"""

_DGRAD = """
if ctx.quant_type == 'none':
    ORIGINAL_STATEMENT
else:
    from quantctl.kernels import linear as quantctl_linear

    grad_input = quantctl_linear.dgrad(ctx, DY, weight)
"""

_WGRAD = """
if ctx.quant_type != 'none':
    from quantctl.kernels import linear as quantctl_linear

    unquantized_grad_output = grad_output
    grad_output, total_input = quantctl_linear.wgrad_operands(ctx, grad_output, total_input)
"""

_BIAS_GRAD = """
if ctx.quant_type == 'none':
    ORIGINAL_STATEMENT
else:
    grad_bias = unquantized_grad_output.sum(dim=0) if use_bias else None
"""


_HAND_OVER = "quant_layer=getattr(self, 'quant_layer', None)"


def _fprop(function: str, before: str = "", save: str = "") -> Either:
    """The forward product stands in the function itself, or behind 0.19 in a helper that chooses among two GEMMs."""
    return Either(
        (
            Edit(Kind.REPLACE, function, "output = torch.matmul(X, weight.t())", before + _FPROP % save),
            Edit(
                Kind.REPLACE,
                function,
                "return _linear_forward(X, weight, bias, output_dtype)",
                before + _FPROP_OPERANDS % save,
            ),
        )
    )


def _handed_on(function: str, caller: str, name: str, default: str = "None") -> tuple[Edit, ...]:
    """An argument that the function which calls an autograd function hands on to it."""
    annotation = "bool" if default == "False" else "object"
    return (
        Edit(Kind.PARAMETER, f"{function}.forward", "", f"{name}={default}"),
        Edit(Kind.PARAMETER, caller, "", f"{name}: {annotation} = {default}"),
        Edit(Kind.LIST_ELEMENT, caller, "args", name),
    )


PATCH = Patch(
    name="linear",
    file=LAYERS,
    why="selectors for the products of linear layers and of the output layer",
    releases="0.10 - 0.19, main",
    header=_HEADER,
    mark=b"custom_quant_type_linear",
    edition=b"quant_layer",
    roles=("linear", "lm_head"),
    together=("lm_head",),
    edits=(
        *_handed_on(_FROZEN, "linear_with_frozen_weight", "quant_layer"),
        _fprop(f"{_FROZEN}.forward", before=_CHOOSE),
        Edit(Kind.REPLACE, f"{_FROZEN}.backward", "grad_input = DY.matmul(weight)", _DGRAD, count=(1, 2)),
        Edit(Kind.RETURN_ELEMENT, f"{_FROZEN}.backward", "", "None"),
        *_handed_on(_TRAINED, "linear_with_grad_accumulation_and_async_allreduce", "quant_layer"),
        Edit(Kind.REPLACE, f"{_TRAINED}.forward", "ctx.save_for_backward(input, weight)", _CHOOSE + _SAVE),
        _fprop(f"{_TRAINED}.forward", save=", quant_save"),
        Edit(Kind.REPLACE, f"{_TRAINED}.backward", "input, weight = ctx.saved_tensors", _SAVED),
        Edit(Kind.REPLACE, f"{_TRAINED}.backward", "grad_input = DY.matmul(weight)", _DGRAD),
        Edit(
            Kind.AFTER,
            f"{_TRAINED}.backward",
            "grad_output, total_input = prepare_input_tensors_for_wgrad_compute(grad_output, total_input)",
            _WGRAD,
        ),
        Edit(
            Kind.REPLACE,
            f"{_TRAINED}.backward",
            "grad_bias = grad_output.sum(dim=0) if use_bias else None",
            _BIAS_GRAD,
        ),
        Edit(Kind.RETURN_ELEMENT, f"{_TRAINED}.backward", "", "None", count=(2,)),
        Edit(Kind.ARGUMENT, "ColumnParallelLinear.forward", "self._forward_impl", _HAND_OVER),
        Edit(Kind.ARGUMENT, "RowParallelLinear.forward", "self._forward_impl", _HAND_OVER),
        Edit(Kind.PRODUCTS, f"{_FROZEN}.forward", "", ""),
        Edit(Kind.PRODUCTS, f"{_FROZEN}.backward", "", "", count=(1, 2)),
        Edit(Kind.PRODUCTS, f"{_TRAINED}.forward", "", ""),
        Edit(Kind.PRODUCTS_BEFORE, f"{_TRAINED}.backward", "prepare_input_tensors_for_wgrad_compute", ""),
    ),
    former=(
        *_handed_on(_FROZEN, "linear_with_frozen_weight", "lm_head", "False"),
        _fprop(f"{_FROZEN}.forward", before=_FORMER_CHOOSE),
        *_handed_on(_TRAINED, "linear_with_grad_accumulation_and_async_allreduce", "lm_head", "False"),
        Edit(Kind.REPLACE, f"{_TRAINED}.forward", "ctx.save_for_backward(input, weight)", _FORMER_CHOOSE + _SAVE),
        Edit(
            Kind.ARGUMENT,
            "ColumnParallelLinear.forward",
            "self._forward_impl",
            "lm_head=getattr(self, 'is_lm_head', False)",
        ),
    ),
)
