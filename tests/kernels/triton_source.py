"""What Triton's compiler takes, in the form of the Triton at hand: 3.2 to 3.7."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import triton
from triton.compiler import ASTSource

VERSION = tuple(map(int, triton.__version__.split(".")[:2]))


def source(kernel: Any, types: Mapping[str, Any], constants: Mapping[str, Any], divisible: Any = None) -> ASTSource:
    """`kernel` for parameters of these types; i32 is the default, constants that it has no parameter for are ignored.

    divisible: attributes by the parameter's place, for Triton 3.3 and later.
    """
    names = kernel.arg_names
    known = {name: value for name, value in constants.items() if name in names}
    signature = {name: "constexpr" if name in known else types.get(name, "i32") for name in names}
    if VERSION < (3, 3):
        return ASTSource(kernel, {name: kind for name, kind in signature.items() if name not in known}, known)
    return ASTSource(kernel, signature, {(names.index(name),): value for name, value in known.items()}, divisible)
