"""MXFP6: OCP MX v1.0, section 5.3.2, block scaling in mx.py.

| element | exponent bits, bias | mantissa bits | normal range | subnormals |
| E3M2 | 3, 3 | 2 | 0.25 .. 28 | multiples of 2^-4 |
| E2M3 | 2, 1 | 3 | 1 .. 7.5 | multiples of 2^-3 |

Neither has Inf or NaN. E3M2 is the default: with it weights, activations and gradients were trained
(arXiv 2310.10537).
"""

from __future__ import annotations

from quantctl.kernels.formats.elements import Element
from quantctl.kernels.formats.mx import MX

E3M2 = Element(mantissa_bits=2, min_exponent=-2, max_exponent=4, largest=28.0)
E2M3 = Element(mantissa_bits=3, min_exponent=0, max_exponent=2, largest=7.5)

FORMAT = MX({"e3m2": E3M2, "e2m3": E2M3})
