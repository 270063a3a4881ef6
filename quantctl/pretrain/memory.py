"""How much memory a run takes: Megatron-LM's lines and scalars on CUDA, the peak of resident memory on a CPU.

    [Rank 0] (after 1 iterations) memory (MB) | allocated: ... | max allocated: ... | reserved: ... | max reserved: ...
    [Rank 0] (after 200 iterations) memory (MB) | max resident: ...

MB are 2^20 bytes. Source: report_memory and training_log in megatron/training.
"""

from __future__ import annotations

import argparse
import resource
import sys

import torch
import torch.distributed as dist

from quantctl.pretrain.scalars import Scalars

MEGABYTE = 1024.0 * 1024.0

_SCALARS = {
    "mem-reserved-bytes": "reserved_bytes.all.current",
    "mem-allocated-bytes": "allocated_bytes.all.current",
    "mem-max-allocated-bytes": "allocated_bytes.all.peak",
    "mem-allocated-count": "allocation.all.current",
}


def peak_resident() -> float:
    """Largest resident set of this process so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class Memory:
    """Reports after the first two logged iterations (the second has the optimizer's state too) and at the end."""

    def __init__(self, args: argparse.Namespace, scalars: Scalars, device: torch.device) -> None:
        from megatron.core import parallel_state

        self.args = args
        self.scalars = scalars
        self.cuda = device.type == "cuda"
        self.speaks = parallel_state.get_data_parallel_rank() == 0
        self.left = 2

    def report(self, iteration: int) -> None:
        """After a log line; nothing on a CPU, whose peak comes last."""
        if self.cuda and self.left:
            self.left -= 1
            self._print(iteration, _cuda())

    def scalar(self, iteration: int) -> None:
        """CUDA's statistics as TensorBoard scalars, with --log-memory-to-tensorboard."""
        if self.cuda and self.args.log_memory_to_tensorboard:
            statistics = torch.cuda.memory_stats()
            for tag, name in _SCALARS.items():
                self.scalars.add(tag, statistics[name], iteration)

    def report_peak(self, iteration: int) -> None:
        """Once, at the end of a run."""
        self._print(iteration, _cuda() if self.cuda else f"max resident: {peak_resident() / MEGABYTE:.2f}")

    def _print(self, iteration: int, figures: str) -> None:
        if self.speaks:
            print(f"[Rank {dist.get_rank()}] (after {iteration} iterations) memory (MB) | {figures}", flush=True)


def _cuda() -> str:
    figures = {
        "allocated": torch.cuda.memory_allocated(),
        "max allocated": torch.cuda.max_memory_allocated(),
        "reserved": torch.cuda.memory_reserved(),
        "max reserved": torch.cuda.max_memory_reserved(),
    }
    return " | ".join(f"{name}: {value / MEGABYTE:.2f}" for name, value in figures.items())
