"""Whether the mask tensor that Megatron passes beside `AttnMaskType.causal` is the causal one.

Megatron-LM's data loader builds a mask for each micro batch: the causal one, or with --reset-attention-mask one in
which documents do not see each other, under the same mask type. The unfused flow obeys the tensor, a fused kernel never
reads it, so its content must be known. On a CUDA device looking at it would stop the queue of kernels in every micro
batch; therefore only the first mask of a process is looked at, and those that follow are asserted on the device: a run
whose later masks are of another kind ends there, with the message below, and never trains on wrong numbers.

All layers of a micro batch get the same tensor, which is compared once.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

_ROWS = 1024
"""Rows that are compared at a time: no second mask in memory."""

_LATER = "quantctl: the first attention mask of this process was causal, this one is not; run with --attention unfused"

_verdicts: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""Mask -> (its version, whether it is causal); the version counts writes to the tensor."""
_first: dict[torch.device, bool] = {}


def _equals_causal(mask: Tensor) -> Tensor:
    """mask [..., s, s], True where a query does not see a key -> a boolean scalar on its device."""
    length = mask.size(-1)
    keys = torch.arange(length, device=mask.device)
    parts = [
        (mask[..., start : start + _ROWS, :] == (keys > keys[start : start + _ROWS, None])).all()
        for start in range(0, length, _ROWS)
    ]
    return torch.stack(parts).all()


def _is_rehearsed() -> bool:
    """Whether Megatron tries a layer on tensors of zeros, masks included, which it does before it captures a graph."""
    graphs = sys.modules.get("megatron.core.transformer.cuda_graphs")
    if graphs is None or torch.cuda.is_current_stream_capturing():
        return False
    return graphs.is_graph_capturing() or getattr(graphs, "is_graph_warmup", bool)()


def _must_not_wait(mask: Tensor) -> bool:
    """Whether nobody may look at the mask, because that waits for the device."""
    return mask.is_cuda and (mask.device in _first or torch.cuda.is_current_stream_capturing())


def is_causal(mask: Tensor) -> bool:
    """Whether mask [..., s, s] (boolean, True: not seen) hides every later key and nothing else.

    On a CUDA device the answer about a later mask is that about the first one; if that is wrong, an assertion on the
    device ends the run.
    """
    if mask.is_cuda and _is_rehearsed():
        return _first.get(mask.device, True)
    version = None if mask.is_inference() else mask._version  # torch counts no writes to those of inference_mode
    if mask.is_cuda and version is not None and torch.cuda.is_current_stream_capturing():
        version = -1 - version  # a graph asserts for itself, once, whatever was seen before
    kept = _verdicts.get(mask)
    if kept is not None and version is not None and kept[0] == version:
        return bool(kept[1])
    if _must_not_wait(mask):
        verdict = _first.get(mask.device, True)
        if verdict:
            torch._assert_async(_equals_causal(mask), _LATER)
    else:
        verdict = bool(_equals_causal(mask))
        _first.setdefault(mask.device, verdict)
    _verdicts[mask] = (version, verdict)
    return verdict
