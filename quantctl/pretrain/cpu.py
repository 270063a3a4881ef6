"""What Megatron's layers expect of CUDA, on a CPU.

Constructors and dispatchers ask torch.cuda for the current device and for streams, whatever device their tensors are
on. torch.cpu has the same functions for device-agnostic code: its device is "cpu" and its streams do nothing.
"""

from __future__ import annotations

from typing import Any

import torch


class _Stream(torch.cpu.Stream):
    # torch.cpu's own returns None, which cannot be waited for
    def record_event(self) -> torch.cpu.Event:  # type: ignore[override]
        return torch.cpu.Event()

    def synchronize(self) -> None:
        pass


_IN_PLACE = {
    "current_device": torch.cpu.current_device,
    "current_stream": torch.cpu.current_stream,
    "stream": torch.cpu.stream,
    "Stream": _Stream,
}


def stand_in() -> None:
    """Let torch.cuda answer for the CPU, for the rest of the process. Only where there is no CUDA device."""
    assert not torch.cuda.is_available()
    for name, ours in _IN_PLACE.items():
        setattr(torch.cuda, name, ours)


def _counts(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
    """Megatron's maybe_move_tensor_to_cpu, which makes arrays of CUDA tensors only."""
    return tensor.numpy() if as_numpy and torch.is_tensor(tensor) else tensor


def stand_in_for_experts() -> None:
    """Let the experts' dispatcher give collectives the number of tokens a rank as they take it: not as a tensor."""
    from megatron.core.transformer.moe import token_dispatcher

    token_dispatcher.maybe_move_tensor_to_cpu = _counts
