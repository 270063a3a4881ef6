"""Which step of a training is under way, counted from 1: what phases of a selector and statistics go by.

A trainer that says so is believed (quantctl.pretrain); else Megatron-LM's own counter, else the optimizer that steps
most often: torch calls a hook behind every step of every optimizer.
"""

from __future__ import annotations

import sys
import weakref
from typing import Any

from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

_said: int | None = None
_length: int | None = None
_stepped: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()


def train_for(steps: int) -> None:
    """The training has so many steps in all: for a trainer, before its model is built."""
    global _length
    _length = steps


def begin(step: int) -> None:
    """Step `step` of the training begins, from 1: for a trainer, also behind a checkpoint."""
    global _said
    _said = step


def _megatron() -> Any:
    """The arguments of Megatron-LM's own trainer, None without it."""
    return getattr(sys.modules.get("megatron.training.global_vars"), "_GLOBAL_ARGS", None)


def current() -> int:
    """The step under way."""
    if _said is not None:
        return _said
    before = getattr(_megatron(), "curr_iteration", None)
    if before is not None:
        return int(before) + 1
    return max(_stepped.values(), default=0) + 1


def length() -> int | None:
    """Steps of the whole training, None where nobody has said."""
    if _length is not None:
        return _length
    args = _megatron()
    if iterations := getattr(args, "train_iters", None):
        return int(iterations)
    samples, batch = getattr(args, "train_samples", None), getattr(args, "global_batch_size", None)
    if samples and batch and not getattr(args, "rampup_batch_size", None):
        return int(samples) // int(batch)
    return None


def _count(optimizer: Optimizer, *_: Any) -> None:
    _stepped[optimizer] = _stepped.get(optimizer, 0) + 1


register_optimizer_step_post_hook(_count)
