"""`python -m quantctl.pretrain FLAGS`: train a GPT model with the Megatron tree that Python imports."""

from __future__ import annotations

import argparse
import io
import sys
import warnings
from pathlib import Path
from typing import Any

from quantctl.errors import QuantctlError, exit_with
from quantctl.outside.packages import require
from quantctl.pretrain.arguments import parse

# Megatron's warnings about packages and features that the local layers do without
_NOT_USED = ("Transformer Engine and Apex are not installed", "Apex is not installed", "full scope is deprecated")


def _import_megatron() -> tuple[str, Path]:
    """Version and folder of the tree in use. Raises QuantctlError when there is none."""
    for message in _NOT_USED:
        warnings.filterwarnings("ignore", message=message)
    try:
        import megatron.core
    except ImportError as error:
        raise QuantctlError(
            f"megatron-core does not import: {error}", "its own message says why; megatron-core 0.12 to 0.19 are known"
        ) from error
    return megatron.core.__version__, Path(megatron.core.__file__).parent


def _require_packages(args: argparse.Namespace) -> None:
    """Raises QuantctlError that names all that is missing of what these arguments take."""
    reads = ("tokenizers",) if args.tokenizer_type == "HuggingFaceTokenizer" else ()
    writes = ("tensorboard",) if args.tensorboard_dir else ()
    needed = {"megatron": ("torch", "numpy", "megatron.core", *reads, *writes)}
    require("the embedded trainer", needed | ({"wandb": ("wandb",)} if args.wandb_project else {}))


def _layout(args: argparse.Namespace) -> str:
    from megatron.core import parallel_state

    sizes = {
        "tensor": args.tensor_model_parallel_size,
        "data": parallel_state.get_data_parallel_world_size(),
        "expert": args.expert_model_parallel_size,
    }
    shown = [f"{kind} parallel {size}" for kind, size in sizes.items() if size > 1 or kind == "tensor"]
    return ", ".join(shown)


def _describe(args: argparse.Namespace, state: Any, datasets: tuple[Any, Any, Any], device: Any, tree: str) -> None:
    import torch

    from quantctl.pretrain.model import parameter_count
    from quantctl.pretrain.parallel import say

    train = datasets[0]
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    dtype = "bf16, fp32 master weights and gradients" if args.bf16 else "fp32"
    source = "mock data" if args.mock_data else " ".join(args.data_path)
    tokens = args.train_iters * args.global_batch_size * args.seq_length
    say(
        f"quantctl.pretrain\n  tree        {tree}\n"
        f"  device      {device.type} ({where}), {_layout(args)}\n"
        f"  dtype       {dtype}\n"
        f"  parameters  {parameter_count(state.model, args):,}\n"
        f"  vocabulary  {train.config.tokenizer.vocab_size:,} (padded {args.padded_vocab_size:,})\n"
        f"  data        {source}: {len(train):,} samples of {args.seq_length} tokens\n"
        f"  to train    {args.train_iters:,} iterations, {tokens:,} tokens"
    )


def main(argv: list[str] | None = None) -> None:
    """Parse, build, load, train. Raises QuantctlError for everything a user can put right."""
    args = parse(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    _require_packages(args)
    version, folder = _import_megatron()

    from quantctl.data.tokenizer import build_tokenizer
    from quantctl.kernels.measure import steps
    from quantctl.pretrain import checkpoint, parallel
    from quantctl.pretrain.data import build_datasets
    from quantctl.pretrain.loop import State, Trainer
    from quantctl.pretrain.model import build_model
    from quantctl.pretrain.optimizer import MasterAdamW
    from quantctl.pretrain.schedule import build_schedule

    tokenizer = build_tokenizer(args)
    device = parallel.start(args)
    datasets = build_datasets(args, tokenizer)
    steps.train_for(args.train_iters)
    model = build_model(args, device)
    optimizer = MasterAdamW(model, args)
    state = State(model, optimizer, build_schedule(args, optimizer))
    _describe(args, state, datasets, device, f"megatron-core {version}, {folder}")
    if args.load:
        checkpoint.load(args, state)
    Trainer(args, state, datasets, device).train()
    parallel.stop()


if __name__ == "__main__":
    exit_with(main)
