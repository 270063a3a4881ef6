"""What a run says: Megatron-LM's log lines on stdout and its scalars (scalars.py).

Line formats and tags are those of training_log and evaluate_and_print_results in megatron/training/training.py, so
that tools made for Megatron-LM read them.
"""

from __future__ import annotations

import argparse
import math
import time
from datetime import datetime

import torch.distributed as dist

from quantctl.pretrain.flops import flops_per_sample
from quantctl.pretrain.parallel import is_last_rank
from quantctl.pretrain.scalars import Scalars


def print_rank_0(text: str) -> None:
    """A line of Megatron-LM's on stdout, once."""
    if dist.get_rank() == 0:
        print(text, flush=True)


class Stopwatch:
    """Seconds of training, without those of validation and saving."""

    def __init__(self) -> None:
        self.total = 0.0
        self.since: float | None = None

    def start(self) -> None:
        self.since = time.perf_counter()

    def stop(self) -> None:
        assert self.since is not None
        self.total += time.perf_counter() - self.since
        self.since = None

    def elapsed(self) -> float:
        return self.total + (0.0 if self.since is None else time.perf_counter() - self.since)

    def reset(self) -> None:
        self.total = 0.0
        if self.since is not None:
            self.start()


class TrainingLog:
    """Collects iterations and writes one line every --log-interval, and one after the first iteration."""

    def __init__(self, args: argparse.Namespace, scalars: Scalars) -> None:
        self.args = args
        self.scalars = scalars
        self.watch = Stopwatch()
        self.first = True
        self.sums: dict[str, float] = {}
        self.iterations = 0

    def add(
        self, iteration: int, samples: int, losses: dict[str, float], learning_rate: float, grad_norm: float
    ) -> bool:
        """Record one iteration: `samples` consumed so far, `losses` by log field, `grad_norm` before clipping.

        `lm loss` is the mean over the iteration's tokens. Returns whether a line was due.
        """
        args = self.args
        for name, loss in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + loss
        self.iterations += 1
        if iteration % args.tensorboard_log_interval == 0:
            self.scalars.samples(iteration, samples)
            for tag, value in (
                ("learning-rate", learning_rate),
                ("batch-size", args.global_batch_size),
                ("lm loss", losses["lm loss"]),
                ("loss-scale", 1.0),
                ("grad-norm", grad_norm),
            ):
                self.scalars.add(tag, value, iteration, samples)
        for name, loss in losses.items():
            if name != "lm loss":  # those of the experts; Megatron-LM writes them at every iteration, and once
                self.scalars.add(name, loss, iteration)
        due = iteration % args.log_interval == 0
        written = due or self.first
        if written:
            self._write(iteration, samples, learning_rate, grad_norm)
        self.first = False
        if due:
            self.sums, self.iterations = {}, 0
            self.watch.reset()
        return written

    def _write(self, iteration: int, samples: int, learning_rate: float, grad_norm: float) -> None:
        args = self.args
        seconds = self.watch.elapsed() / self.iterations
        teraflops = flops_per_sample(args) * args.global_batch_size / (seconds * 1e12 * dist.get_world_size())
        if args.log_timers_to_tensorboard and not self.first:
            self.scalars.add("iteration-time", seconds, iteration)
            if args.log_throughput:
                self.scalars.add("throughput", teraflops, iteration)
        if not is_last_rank():
            return
        line = f" [{datetime.now():%Y-%m-%d %H:%M:%S.%f}] iteration {iteration:8d}/{args.train_iters:8d} |"
        line += f" consumed samples: {samples:12d} |"
        line += f" elapsed time per iteration (ms): {seconds * 1000.0:.1f} |"
        if args.log_throughput:
            line += f" throughput per GPU (TFLOP/s/GPU): {teraflops:.1f} |"
        line += f" learning rate: {learning_rate:.6E} |"
        line += f" global batch size: {args.global_batch_size:5d} |"
        for name, total in self.sums.items():
            if total > 0.0:  # false for NaN: Megatron-LM leaves the field out
                line += f" {name}: {total / self.iterations:.6E} |"
        line += f" loss scale: 1.0 | grad norm: {grad_norm:.3f} |"
        line += " number of skipped iterations:   0 | number of nan iterations:   0 |"
        print(line, flush=True)


def validation_line(
    args: argparse.Namespace, scalars: Scalars, iteration: int, samples: int, loss: float, where: str = ""
) -> None:
    """The block of a validation (`where` empty) or of the one after training (` on validation set`)."""
    perplexity = math.exp(min(20, loss)) if not math.isnan(loss) else math.nan
    if not where:
        scalars.add("lm loss validation", loss, iteration, samples)
        if args.log_validation_ppl_to_tensorboard:
            scalars.add("lm loss validation ppl", perplexity, iteration, samples)
    if not is_last_rank():
        return
    line = f" validation loss at iteration {iteration}{where} | lm loss value: {loss:.6E} |"
    line += f" lm loss PPL: {perplexity:.6E} | "
    rule = "-" * (len(line) + 1)
    print(rule, line, rule, sep="\n", flush=True)
