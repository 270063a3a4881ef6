"""Where a run's scalars go: TensorBoard's event files, Weights & Biases, both or neither, under Megatron-LM's tags."""

from __future__ import annotations

import argparse
import os
from typing import Any

from quantctl.errors import QuantctlError
from quantctl.outside.packages import require
from quantctl.pretrain.parallel import is_last_rank


class Scalars:
    """The last rank's: --tensorboard-dir and --wandb-project say which; the other ranks write nothing."""

    def __init__(self, args: argparse.Namespace) -> None:
        last = is_last_rank()
        self.events: Any = _events(args.tensorboard_dir) if args.tensorboard_dir and last else None
        self.wandb: Any = _wandb(args) if args.wandb_project and last else None

    def samples(self, iteration: int, samples: int) -> None:
        """How many samples were consumed: Weights & Biases has no scalars over samples."""
        if self.wandb is not None:
            self.wandb.log({"samples vs steps": samples}, step=iteration)

    def add(self, tag: str, value: float, iteration: int, samples: int | None = None) -> None:
        """`tag` over iterations and, in event files and where `samples` is given, `tag vs samples` over samples."""
        if self.wandb is not None:
            self.wandb.log({tag: value}, step=iteration)
        if self.events is None:
            return
        self.events.add_scalar(tag, value, iteration)
        if samples is not None:
            self.events.add_scalar(f"{tag} vs samples", value, samples)

    def close(self) -> None:
        if self.events is not None:
            self.events.close()
        if self.wandb is not None:
            self.wandb.finish()


def _events(directory: str) -> Any:
    require("--tensorboard-dir", {"megatron": ("tensorboard",)})
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(log_dir=directory, max_queue=1000)


def _folder(args: argparse.Namespace) -> str:
    """Megatron-LM's choice, and where nothing is saved the run directory."""
    base = args.save or os.environ.get("QUANTCTL_RUN_DIR") or os.curdir
    return str(args.wandb_save_dir or os.path.join(base, "wandb"))


def _wandb(args: argparse.Namespace) -> Any:
    """A run of Weights & Biases. Raises QuantctlError where it cannot be begun, not being logged in, for example."""
    require("--wandb-project", {"wandb": ("wandb",)})
    import wandb

    folder = _folder(args)
    os.makedirs(folder, exist_ok=True)
    try:
        return wandb.init(
            dir=folder,
            name=args.wandb_exp_name,
            project=args.wandb_project,
            entity=args.wandb_entity or None,
            config=vars(args),
        )
    except wandb.Error as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise QuantctlError(f"--wandb-project: {said}", "log in with wandb login, or set WANDB_MODE=offline") from error
