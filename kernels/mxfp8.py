"""MXFP8: OCP MX v1.0, section 5.3.1 (the elements are those of OCP OFP8 v1.0), block scaling in mx.py.

| element | exponent bits, bias | mantissa bits | normal range | subnormals |
| E4M3 | 4, 7 | 3 | 2^-6 .. 448 | multiples of 2^-9 |
| E5M2 | 5, 15 | 2 | 2^-14 .. 57344 | multiples of 2^-16 |

E4M3 gives up its topmost code for NaN (so 448 and not 480); E5M2 keeps a whole binade for Inf and NaN.
Quantization saturates and produces neither.
"""

from __future__ import annotations

from torch import Tensor

from quantctl.kernels import mx
from quantctl.spec import FormatSpec

ELEMENTS = {
    "e4m3": mx.Element(mantissa_bits=3, min_exponent=-6, max_exponent=8, largest=448.0),
    "e5m2": mx.Element(mantissa_bits=2, min_exponent=-14, max_exponent=15, largest=57344.0),
}


def quantize_dequantize(x: Tensor, spec: FormatSpec, axis: int, noise: Tensor | None) -> Tensor:
    """`x` (bf16, fp16 or fp32) through MXFP8 in blocks along `axis` (>= 0); same shape and dtype."""
    assert spec.elem is not None
    return mx.quantize_dequantize(x, ELEMENTS[spec.elem], spec, axis, noise)
