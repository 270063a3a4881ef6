"""MXFP8: OCP MX v1.0, section 5.3.1 (the elements are those of OCP OFP8 v1.0), block scaling in mx.py.

| element | exponent bits, bias | mantissa bits | normal range | subnormals |
| E4M3 | 4, 7 | 3 | 2^-6 .. 448 | multiples of 2^-9 |
| E5M2 | 5, 15 | 2 | 2^-14 .. 57344 | multiples of 2^-16 |

E4M3 gives up its topmost code for NaN (so 448 and not 480); E5M2 keeps a whole binade for Inf and NaN.
Quantization saturates and produces neither.
"""

from __future__ import annotations

from quantctl.kernels.formats.elements import Element
from quantctl.kernels.formats.mx import MX

E4M3 = Element(mantissa_bits=3, min_exponent=-6, max_exponent=8, largest=448.0)
E5M2 = Element(mantissa_bits=2, min_exponent=-14, max_exponent=15, largest=57344.0, infinity=True)

FORMAT = MX({"e4m3": E4M3, "e5m2": E5M2})
