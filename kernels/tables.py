"""Constant tables on the operands' device: made once, and what is kept is always a plain tensor.

torch has modes in which every tensor that is made is of another kind: fake (FakeTensorMode), of inference, a level of
torch.func. A table that was kept from within one would end, or falsify, all computation behind it. So tables are made
outside of every mode, and a fake operand gets one of its own mode that nobody keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import wraps
from typing import Concatenate, ParamSpec

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes

P = ParamSpec("P")

_kept: dict[Hashable, Tensor] = {}


def is_fake(x: Tensor) -> bool:
    """Whether x has a shape, a dtype and a device, and no values."""
    return isinstance(x, FakeTensor)


def has_values(x: Tensor) -> bool:
    """Whether Python may look at them: x is neither fake nor a tensor of torch.func."""
    return not is_fake(x) and not torch._C._functorch.is_functorch_wrapped_tensor(x)


def forget() -> None:
    """Drop every table."""
    _kept.clear()


def table(build: Callable[P, Tensor]) -> Callable[Concatenate[Tensor, P], Tensor]:
    """For a function that makes a table on the CPU: the same table on the device of a tensor, its first argument.

    `build` names device and dtype of each tensor that it makes, and its arguments can be hashed.
    """

    @wraps(build)
    def on_device_of(x: Tensor, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        if torch.compiler.is_compiling():
            return build(*args, **kwargs).to(x.device)
        if isinstance(x, FakeTensor):
            with x.fake_mode:
                return build(*args, **kwargs).to(x.device)
        key = (build, x.device, args)
        kept = _kept.get(key)
        if kept is None:
            with _disable_current_modes(), torch.inference_mode(False):
                kept = build(*args, **kwargs).to(x.device)
            if has_values(kept):
                _kept[key] = kept
        return kept

    return on_device_of
