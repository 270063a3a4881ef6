"""Checkpoints in Megatron-LM's layout, written so that an interrupted save leaves the last one intact.

    DIR/iter_0000100/mp_rank_00/model_optim_rng.pt     one file for each tensor parallel rank
    DIR/iter_0000100/mp_rank_00_003/model_optim_rng.pt     and, with expert parallelism, expert parallel rank
    DIR/latest_checkpointed_iteration.txt              names the iteration, written last

A save fills a hidden folder, renames it, and then replaces the tracker file.
megatron.core.dist_checkpointing synchronizes with CUDA when it saves and exchanges shards there when it loads.
"""

from __future__ import annotations

import argparse
import random
import shutil
from pathlib import Path
from typing import Any

import numpy
import torch
import torch.distributed as dist

from quantctl.disk.files import sync, write_new
from quantctl.errors import QuantctlError
from quantctl.pretrain.flags import FLAGS, ORDER, SAME
from quantctl.pretrain.logs import print_rank_0

TRACKER = "latest_checkpointed_iteration.txt"
_SAME = {flag.dest: flag.option for flag in FLAGS.values() if flag.resume == SAME} | {
    "padded_vocab_size": "the padded vocabulary (--tokenizer-model, --make-vocab-size-divisible-by)"
}
_ORDER = {flag.dest: flag.option for flag in FLAGS.values() if flag.resume == ORDER}


def _file(folder: Path) -> Path:
    from megatron.core import parallel_state

    name = f"mp_rank_{parallel_state.get_tensor_model_parallel_rank():02d}"
    if parallel_state.get_expert_model_parallel_world_size() > 1:
        name += f"_{parallel_state.get_expert_model_parallel_rank():03d}"
    return folder / name / "model_optim_rng.pt"


def _writes() -> bool:
    """Whether this rank saves: the first of those that hold the same weights."""
    from megatron.core import parallel_state

    return parallel_state.get_expert_data_parallel_rank() == 0


def _folder(root: Path, iteration: int) -> Path:
    return root / f"iter_{iteration:07d}"


def _rng_state() -> dict[str, Any]:
    kind, keys, *rest = numpy.random.get_state(legacy=True)
    state = {
        "random_rng_state": random.getstate(),
        "np_rng_state": (kind, torch.from_numpy(numpy.asarray(keys).astype(numpy.int64)), *rest),
        "torch_rng_state": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        from megatron.core import tensor_parallel

        state["cuda_rng_state"] = torch.cuda.get_rng_state()
        state["rng_tracker_states"] = tensor_parallel.get_cuda_rng_tracker().get_states()
    return state


def _set_rng_state(state: dict[str, Any]) -> None:
    random.setstate(state["random_rng_state"])
    kind, keys, *rest = state["np_rng_state"]
    numpy.random.set_state((kind, keys.numpy().astype(numpy.uint32), *rest))
    torch.set_rng_state(state["torch_rng_state"])
    if "cuda_rng_state" in state and torch.cuda.is_available():
        from megatron.core import tensor_parallel

        torch.cuda.set_rng_state(state["cuda_rng_state"])
        tensor_parallel.get_cuda_rng_tracker().set_states(state["rng_tracker_states"])


def _write(args: argparse.Namespace, state: Any, file: Path) -> None:
    file.parent.mkdir()
    torch.save(
        {
            "checkpoint_version": 3.0,
            "iteration": state.iteration,
            "args": dict(vars(args)),
            "model": state.model.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "opt_param_scheduler": state.schedule.state_dict(),
            "rng_state": [_rng_state()],
            "consumed_train_samples": state.consumed_train,
            "consumed_valid_samples": state.consumed_valid,
        },
        file,
    )
    sync(file)


def save(args: argparse.Namespace, state: Any) -> None:
    """Write a checkpoint of the training `state` (quantctl.pretrain.loop.State) to --save."""
    root = Path(args.save)
    iteration = state.iteration
    final = _folder(root, iteration)
    draft = root / f".{final.name}.draft"
    print_rank_0(f"saving checkpoint at iteration {iteration:7d} to {root} in torch format")
    if dist.get_rank() == 0:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
    dist.barrier()
    if _writes():
        _write(args, state, _file(draft))
    dist.barrier()
    if dist.get_rank() == 0:
        old = root / f".{final.name}.old"
        shutil.rmtree(old, ignore_errors=True)
        if final.exists():  # the same iteration again, after an earlier checkpoint was loaded
            final.rename(old)
        draft.rename(final)
        write_new(root / TRACKER, str(iteration).encode())
        shutil.rmtree(old, ignore_errors=True)
    dist.barrier()
    print_rank_0(f"  successfully saved checkpoint from iteration {iteration:7d} to {root}")


def _latest(root: Path) -> int | None:
    """The iteration that the tracker file names, None without one."""
    tracker = root / TRACKER
    if not tracker.is_file():
        print_rank_0(f"WARNING: could not find the metadata file {tracker}")
        print_rank_0("    will not load any checkpoints and will start from random")
        return None
    text = tracker.read_text().strip()
    if not text.isdigit():
        raise QuantctlError(f"{tracker} says {text!r}, which is no iteration", "write the number of an iter_ folder")
    return int(text)


def _compare(args: argparse.Namespace, saved: dict[str, Any], file: Path) -> None:
    for dest, flag in _SAME.items():
        if saved.get(dest) != getattr(args, dest):
            raise QuantctlError(
                f"{flag} is {getattr(args, dest)}, and the checkpoint {file} was made with {saved.get(dest)}",
                "give the checkpoint's value, or train from another --load",
            )
    for dest, flag in _ORDER.items():
        if saved.get(dest) != getattr(args, dest):
            print_rank_0(
                f"WARNING: {flag} was {saved.get(dest)} and is {getattr(args, dest)}: the samples differ from those of "
                "an uninterrupted run"
            )


def load(args: argparse.Namespace, state: Any) -> bool:
    """Bring `state` to the latest checkpoint of --load; False when there is none.

    Raises QuantctlError for an unreadable checkpoint and for one whose model or schedule has other flags.
    """
    root = Path(args.load)
    iteration = _latest(root)
    if iteration is None:
        return False
    file = _file(_folder(root, iteration))
    print_rank_0(f" loading checkpoint from {root} at iteration {iteration}")
    if not file.is_file():
        raise QuantctlError(
            f"{root / TRACKER} names iteration {iteration}, and {file} does not exist",
            "write the number of a complete iter_ folder into it; --tensor-model-parallel-size must be as it was",
        )
    try:
        # mapped, so that the ranks of a machine share its pages; on a CPU the optimizer's state would stay mapped
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=torch.cuda.is_available())
        saved = content["args"]
    except Exception as error:  # torch and pickle raise many kinds for a damaged or foreign file
        raise QuantctlError(
            f"{file} is no checkpoint of the embedded trainer: {str(error).splitlines()[0]}",
            "checkpoints of Megatron-LM's own trainer are not read here",
        ) from error
    _compare(args, saved, file)
    state.model.load_state_dict(content["model"])
    state.optimizer.load_state_dict(content["optimizer"])
    state.schedule.load_state_dict(content["opt_param_scheduler"])
    _set_rng_state(content["rng_state"][0])
    state.iteration = content["iteration"]
    state.consumed_train = content["consumed_train_samples"]
    state.consumed_valid = content["consumed_valid_samples"]
    print_rank_0(f"  successfully loaded checkpoint from {root} at iteration {iteration}")
    return True
