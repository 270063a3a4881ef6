"""Other libraries that emulate the same formats, where they can be imported."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Quantizer = Callable[[Tensor], Tensor]

BLOCK = 32


def _module(name: str) -> Any:
    """The module; None where it is not installed, and where what is installed under the name is something else.

    What it warns of while it is imported (compiled parts for other devices) is about no figure here.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
    finally:
        logging.disable(before)


def torchao_quantizers(spec: str, compiled: bool) -> dict[str, Quantizer]:
    """Name -> values of a [m, n] tensor in blocks along n, by torchao's to_mx with the rceil rule; spec mxfp8 or mxfp4.

    torchao keeps codes and scales, so its result takes two calls; compiled, they become what inductor makes of them.
    """
    mx_tensor = _module("torchao.prototype.mx_formats.mx_tensor")
    dtypes = {"mxfp8": torch.float8_e4m3fn, "mxfp4": getattr(torch, "float4_e2m1fn_x2", None)}  # torch 2.8
    dtype = dtypes[spec]
    if mx_tensor is None or dtype is None:
        return {}
    rule = _module("torchao.prototype.mx_formats.config").ScaleCalculationMode.RCEIL

    def quantize(x: Tensor) -> Tensor:
        scale, codes = mx_tensor.to_mx(x, dtype, BLOCK, rule)
        values: Tensor = mx_tensor.to_dtype(codes, scale, dtype, BLOCK, x.dtype)
        return values

    found: dict[str, Quantizer] = {"torchao eager": quantize}
    if compiled:
        found["torchao compiled"] = torch.compile(quantize)
    return found


_MICROXCALING = {"mxfp8": "fp8_e4m3", "mxfp4": "fp4_e2m1"}


def _microxcaling_specs(spec: str, extension: bool) -> Any:
    element = _MICROXCALING[spec]
    return _module("mx.specs").finalize_mx_specs(
        {
            "w_elem_format": element,
            "a_elem_format": element,
            "scale_bits": 8,
            "block_size": BLOCK,
            "bfloat": 16,
            "custom_cuda": extension,
        }
    )


def _variants(device: torch.device) -> dict[str, bool]:
    """Its CUDA extension is compiled when it is first used, which needs nvcc."""
    variants = {"microxcaling Python": False}
    return variants | {"microxcaling CUDA": True} if device.type == "cuda" else variants


def microxcaling_quantizers(spec: str, device: torch.device) -> dict[str, Quantizer]:
    """Name -> values of a [m, n] tensor in blocks along n; spec mxfp8 or mxfp4."""
    operations = _module("mx.mx_ops")
    if operations is None:
        return {}

    def quantizer(extension: bool) -> Quantizer:
        specs = _microxcaling_specs(spec, extension)
        return lambda x: operations.quantize_mx_op(x, specs, elem_format=_MICROXCALING[spec], axes=[-1])

    return {name: quantizer(extension) for name, extension in _variants(device).items()}


def microxcaling_linears(weight: Tensor) -> dict[str, nn.Module]:
    """Name -> its Linear, mxfp8 with a quantized backward, with this weight [out, in]."""
    library = _module("mx.linear")
    if library is None:
        return {}
    found = {}
    for name, extension in _variants(weight.device).items():
        outputs, inputs = weight.shape
        with torch.device("meta"):
            layer = library.Linear(inputs, outputs, bias=False, mx_specs=_microxcaling_specs("mxfp8", extension))
        layer.weight = nn.Parameter(weight.detach())
        found[name] = layer
    return found
