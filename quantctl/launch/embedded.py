"""What the embedded trainer needs installed."""

from __future__ import annotations

from collections.abc import Sequence

from quantctl.errors import QuantctlError
from quantctl.launch.flags import among
from quantctl.outside import packages


def needed(tree: str, flags: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Extra of quantctl's -> modules. `tree`: the one that brings megatron.core, else empty."""
    modules = ("torch", "numpy", "tokenizers", *(() if tree else ("megatron.core",)), "tensorboard")
    return {"megatron": modules} | ({"wandb": ("wandb",)} if among(flags, "--wandb-project") else {})


def lack(python: str, tree: str, flags: Sequence[str]) -> QuantctlError | None:
    """The error that names all of it that `python` does not have."""
    return packages.lack("the embedded trainer", needed(tree, flags), python)
