"""MXFP4: OCP MX v1.0, section 5.3.3, block scaling in mx.py.

E2M1: +-{0, 0.5, 1, 1.5, 2, 3, 4, 6}; bias 1, one mantissa bit, one subnormal (0.5), no Inf and no NaN.
"""

from __future__ import annotations

from torch import Tensor

from quantctl.kernels import mx
from quantctl.spec import FormatSpec

E2M1 = mx.Element(mantissa_bits=1, min_exponent=0, max_exponent=2, largest=6.0)


def quantize_dequantize(x: Tensor, spec: FormatSpec, axis: int, noise: Tensor | None) -> Tensor:
    """`x` (bf16, fp16 or fp32) through MXFP4 in blocks along `axis` (>= 0); same shape and dtype."""
    return mx.quantize_dequantize(x, E2M1, spec, axis, noise)
