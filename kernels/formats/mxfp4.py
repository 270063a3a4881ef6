"""MXFP4: OCP MX v1.0, section 5.3.3, block scaling in mx.py.

E2M1: +-{0, 0.5, 1, 1.5, 2, 3, 4, 6}; bias 1, one mantissa bit, one subnormal (0.5), no Inf and no NaN.
"""

from __future__ import annotations

from quantctl.kernels.formats.elements import Element
from quantctl.kernels.formats.mx import MX

E2M1 = Element(mantissa_bits=1, min_exponent=0, max_exponent=2, largest=6.0)

FORMAT = MX({None: E2M1})
