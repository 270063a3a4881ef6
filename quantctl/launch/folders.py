"""Where a script's run leaves what it makes: caches, events, checkpoints."""

from __future__ import annotations

from quantctl.launch.arguments import Called
from quantctl.launch.flags import Flags


def add(flags: Flags, called: Called, run_dir: str, smoke: bool) -> None:
    """Put the folders among a script's own flags. A smoke run that names no CHECKPOINT_PATH writes none."""
    flags.before("--num-workers", ["--data-cache-path", f"{run_dir}/data_cache"])
    flags.before(
        "--save-interval", ["--tensorboard-dir", called.get("TENSORBOARD_LOGS_PATH", f"{run_dir}/tensorboard")]
    )
    checkpoints = called.get("CHECKPOINT_PATH", "" if smoke else f"{run_dir}/checkpoints")
    if checkpoints:
        flags.before("--save-interval", ["--save", checkpoints], ["--load", checkpoints])
    else:
        flags.drop("--save-interval", "--ckpt-format")
