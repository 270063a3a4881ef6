"""The products of Transformer Engine's linear layers, as Megatron's local layers compute them.

The autograd functions of megatron/core/tensor_parallel/layers.py hold the selectors, the communication of tensor and
sequence parallelism, and the accumulation into main_grad. Here they get the parameters of a te.pytorch.Linear or
LayerNormLinear, whose forward they stand for. So products, counts and statistics are those of the local layers, bit for
bit, and state_dict and named_modules those of Transformer Engine. Where nothing is asked of a module now, its own
forward runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

from torch import Tensor

from quantctl.kernels.products import operands
from quantctl.kernels.products.modules import spec_now
from quantctl.kernels.te.refusals import refuse

Output = Tensor | tuple[Tensor, Tensor | None]


def asked(module: Any, quant_type: str, site: str) -> bool:
    """Whether a format holds now for the products of this module; counted as stock ones if not."""
    layer = getattr(module, "quant_layer", None)
    text = spec_now(quant_type, site, layer)
    if operands.resolve(text, site).is_none:
        operands.count(site, "fprop", text, layer)
        return False
    refuse(module, site, quant_type)
    return True


def linear(module: Any, x: Tensor, quant_type: str, site: str) -> Output | None:
    """What te.pytorch.Linear's forward returns: the output, with `return_bias` and the bias; None where it is to run.

    x [..., in]. quant_type: the selector's value. Raises QuantctlError for what the layer does and these products do
    not (refusals.py).
    """
    return _linear(module, x) if asked(module, quant_type, site) else None


def layernorm_linear(module: Any, x: Tensor, quant_type: str, site: str) -> Output | None:
    """The same for te.pytorch.LayerNormLinear: the norm of x by Transformer Engine, then the product."""
    return _linear(module, _norm_of(module)(x)) if asked(module, quant_type, site) else None


def _linear(module: Any, x: Tensor) -> Output:
    mode, parallel = module.parallel_mode, module.tp_size > 1
    bias = module.bias if module.use_bias else None
    inside = bias if mode != "row" and not module.return_bias else None  # a row layer's comes behind the reduction
    column = mode == "column" and parallel
    output = product(
        module,
        x,
        module.weight,
        inside,
        allreduce_dgrad=column and not module.sequence_parallel,
        sequence_parallel=column and module.sequence_parallel,
    )
    if mode == "row" and parallel:
        output = _reduced(module, output)
    if module.return_bias:
        return output, bias
    return output if bias is None or inside is not None else output + bias


def product(
    module: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *, allreduce_dgrad: bool, sequence_parallel: bool
) -> Tensor:
    """X W^T + bias by Megatron's function, with its gradient products: x [..., in], weight [out, in], bias [out]."""
    from megatron.core.tensor_parallel import layers

    function = (
        layers.linear_with_grad_accumulation_and_async_allreduce
        if weight.requires_grad
        else layers.linear_with_frozen_weight
    )
    output: Tensor = function(
        input=x,
        weight=weight,
        bias=bias,
        gradient_accumulation_fusion=module.fuse_wgrad_accumulation,
        allreduce_dgrad=allreduce_dgrad,
        sequence_parallel=sequence_parallel,
        grad_output_buffer=None,
        quant_layer=getattr(module, "quant_layer", None),
        **_group(function, "tp_group", module),
    )
    return output


def _reduced(module: Any, output: Tensor) -> Tensor:
    from megatron.core.tensor_parallel import mappings

    function = (
        mappings.reduce_scatter_to_sequence_parallel_region
        if module.sequence_parallel
        else mappings.reduce_from_tensor_model_parallel_region
    )
    reduced: Tensor = function(output, **_group(function, "group", module))
    return reduced


@cache
def _takes(function: Callable[..., Any], parameter: str) -> bool:
    return parameter in inspect.signature(function).parameters


def _group(function: Callable[..., Any], parameter: str, module: Any) -> dict[str, Any]:
    """The module's tensor parallel group, where the release's function takes one."""
    return {parameter: module.tp_group} if _takes(function, parameter) else {}


def _norm_of(module: Any) -> Any:
    """Transformer Engine's own norm over the layer's own parameters; no part of the module tree."""
    norm = vars(module).get("quantctl_norm")
    if norm is None:
        from transformer_engine import pytorch

        kind = pytorch.RMSNorm if module.normalization == "RMSNorm" else pytorch.LayerNorm
        norm = vars(module)["quantctl_norm"] = kind(
            module.in_features,
            eps=module.eps,
            zero_centered_gamma=module.zero_centered_gamma,
            device="meta",
            params_dtype=module.layer_norm_weight.dtype,
        )
    for name in norm._parameters:
        norm._parameters[name] = getattr(module, f"layer_norm_{name}")
    return norm
