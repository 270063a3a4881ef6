"""The training loop: steps, validation, checkpoints, and the reasons to stop."""

from __future__ import annotations

import argparse
import math
import signal
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from quantctl.errors import DIFFERS, QuantctlError
from quantctl.kernels.measure import steps
from quantctl.pretrain import checkpoint
from quantctl.pretrain.balance import scale_gradients, take_losses
from quantctl.pretrain.data import Batch, Samples
from quantctl.pretrain.flops import expert_layers
from quantctl.pretrain.logs import TrainingLog, print_rank_0, validation_line
from quantctl.pretrain.memory import Memory
from quantctl.pretrain.optimizer import MasterAdamW
from quantctl.pretrain.scalars import Scalars


class Diverged(QuantctlError):
    """The loss or the gradients are no finite numbers: a finding about the run."""

    status = DIFFERS


@dataclass
class State:
    """All that a checkpoint holds."""

    model: torch.nn.Module
    optimizer: MasterAdamW
    schedule: Any
    iteration: int = 0
    consumed_train: int = 0
    consumed_valid: int = 0


class _Termination:
    """Whether any rank received SIGTERM; without --exit-signal-handler the signal keeps its usual effect."""

    def __init__(self, enabled: bool, device: torch.device) -> None:
        self.enabled = enabled
        self.device = device
        self.seen = False
        if enabled:
            signal.signal(signal.SIGTERM, self._note)

    def _note(self, *_: object) -> None:
        self.seen = True

    def requested(self) -> bool:
        if not self.enabled:
            return False
        anywhere = torch.tensor(float(self.seen), device=self.device)
        dist.all_reduce(anywhere, op=dist.ReduceOp.MAX)
        return bool(anywhere)


class Trainer:
    """Trains `state.model` on `train`, validates on `valid` and, after the last iteration, on `test`."""

    def __init__(
        self, args: argparse.Namespace, state: State, datasets: tuple[Any, Any, Any], device: torch.device
    ) -> None:
        from megatron.core import parallel_state

        self.args = args
        self.state = state
        self.device = device
        self.data_parallel = parallel_state.get_data_parallel_group()
        train, valid, test = datasets
        evaluate = args.eval_iters > 0
        self.train_samples = Samples(train, args, device, state.consumed_train)
        self.valid_samples = Samples(valid, args, device, state.consumed_valid) if valid and evaluate else None
        self.test_samples = Samples(test, args, device) if test and evaluate else None
        self.scalars = Scalars(args)
        self.log = TrainingLog(args, self.scalars)
        self.memory = Memory(args, self.scalars, device)
        self.termination = _Termination(args.exit_signal_handler, device)
        self.expert_layers = sum(expert_layers(args))
        if self.expert_layers:
            scale_gradients(self.micro_batches, device)
        # [1, 1, s, s], True where a query must not look: what Megatron's data loader would build for every sample
        shape = (args.seq_length, args.seq_length)
        self.mask = torch.ones(shape, dtype=torch.bool, device=device).triu(diagonal=1)[None, None]

    @property
    def micro_batches(self) -> int:
        """Of one step, on each rank."""
        together = self.args.micro_batch_size * self.data_parallel.size()
        return self.args.global_batch_size // together

    def _forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Summed token losses and the number of tokens, both fp32 scalars."""
        losses = self.state.model(batch["tokens"], batch["position_ids"], self.mask, labels=batch["labels"])
        return (losses.float() * batch["loss_mask"]).sum(), batch["loss_mask"].sum()

    def _mean(self, total: torch.Tensor) -> float:
        """The mean over all ranks of (summed losses, number of tokens)."""
        if self.data_parallel.size() > 1:
            dist.all_reduce(total, group=self.data_parallel)
        return float(total[0] / total[1])

    def _step(self) -> tuple[float, float]:
        """One optimizer step: the mean loss of its tokens, and the gradient norm before clipping."""
        self.state.optimizer.zero_grad()
        total = torch.zeros(2, device=self.device)
        for _ in range(self.micro_batches):
            loss, tokens = self._forward(self.train_samples.next())
            (loss / tokens.clamp(min=1) / self.micro_batches).backward()
            total += torch.stack((loss.detach(), tokens))
        norm = self.state.optimizer.step()
        return self._mean(total), norm

    @torch.no_grad()
    def _evaluate(self, samples: Samples) -> float:
        """Mean loss of the tokens of --eval-iters batches."""
        self.state.model.eval()
        total = torch.zeros(2, device=self.device)
        for _ in range(self.args.eval_iters * self.micro_batches):
            total += torch.stack(self._forward(samples.next()))
        self.state.model.train()
        return self._mean(total)

    def _validate(self, where: str = "") -> None:
        if self.valid_samples is None:
            return
        loss = self._evaluate(self.valid_samples)
        state = self.state
        state.consumed_valid = self.valid_samples.consumed
        validation_line(self.args, self.scalars, state.iteration, state.consumed_train, loss, where)

    def _check_finite(self, loss: float, norm: float) -> None:
        if self.args.no_check_for_nan_in_loss_and_grad or (math.isfinite(loss) and math.isfinite(norm)):
            return
        what = f"lm loss {loss}" if not math.isfinite(loss) else f"gradient norm {norm}"
        raise Diverged(
            f"iteration {self.state.iteration}: {what}",
            "training diverged; --no-check-for-nan-in-loss-and-grad goes on nevertheless, as in Megatron-LM",
        )

    def _save(self) -> None:
        if self.args.save:
            checkpoint.save(self.args, self.state)

    def _iterate(self) -> None:
        args, state = self.args, self.state
        steps.begin(state.iteration + 1)
        loss, norm = self._step()
        state.iteration += 1
        state.consumed_train = self.train_samples.consumed
        state.schedule.step(increment=args.global_batch_size)
        # Megatron-LM logs the rate that the schedule has just set
        learning_rate = state.optimizer.param_groups[0]["lr"]
        losses = {"lm loss": loss}
        if self.expert_layers:
            losses |= take_losses(self.expert_layers, self.micro_batches)
        if self.log.add(state.iteration, state.consumed_train, losses, learning_rate, norm):
            self.memory.report(state.iteration)
        if state.iteration % args.tensorboard_log_interval == 0:
            self.memory.scalar(state.iteration)
        self._check_finite(loss, norm)

    def train(self) -> None:
        """Run to --train-iters, or until --exit-interval or a handled SIGTERM says stop.

        Raises Diverged for a loss or gradient norm that is not finite, unless told to go on.
        """
        args, state = self.args, self.state
        state.model.train()
        saved_at = state.iteration
        stopped = None
        while state.iteration < args.train_iters and stopped is None:
            self.log.watch.start()
            self._iterate()
            self.log.watch.stop()
            if state.iteration % args.eval_interval == 0:
                self._validate()
            if self.termination.requested():
                stopped = "after receiving SIGTERM."
            elif args.exit_interval and state.iteration % args.exit_interval == 0:
                stopped = f"at iteration {state.iteration}"
            if stopped or (args.save_interval and state.iteration % args.save_interval == 0):
                self._save()
                saved_at = state.iteration
        if stopped is None:
            if saved_at != state.iteration:
                self._save()
            self._validate(" on validation set")
            if self.test_samples is not None:
                loss = self._evaluate(self.test_samples)
                validation_line(args, self.scalars, state.iteration, state.consumed_train, loss, " on test set")
        else:
            print_rank_0(f"exiting program {stopped}")
        self.memory.report_peak(state.iteration)
        self.scalars.close()
