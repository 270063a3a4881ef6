"""Processes and devices: the process group, Megatron's parallel state, and what its layers expect to find on a CPU."""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import sys
from datetime import timedelta

import numpy
import torch
import torch.distributed as dist

from quantctl.errors import QuantctlError
from quantctl.pretrain import cpu
from quantctl.pretrain.release import keywords


def say(text: str) -> None:
    """Prose for people, once: rank 0 writes it to stderr."""
    if os.environ.get("RANK", "0") == "0":
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def choose_device(backend: str | None = None) -> torch.device:
    """This rank's CUDA device where there is one, else the CPU.

    Raises QuantctlError for more ranks than devices, which only the backend gloo lets share one.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    here, devices = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if here > devices and backend != "gloo":
        raise QuantctlError(
            f"{here} processes on a machine with {devices} GPU{'s' * (devices > 1)}",
            f"start as many as there are GPUs (the scripts: GPUS_PER_NODE={devices})",
        )
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % devices)
    torch.cuda.set_device(device)
    return device


def _check_world(args: argparse.Namespace) -> None:
    """The ranks that tensor parallelism leaves are data parallel; experts have a layout of their own."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    tensor, expert = args.tensor_model_parallel_size, args.expert_model_parallel_size
    together = args.expert_tensor_parallel_size * expert
    for divisor, sizes in (
        (tensor, f"--tensor-model-parallel-size {tensor}"),
        (together, f"--expert-model-parallel-size {expert} x tensor parallel size {together // expert}"),
    ):
        if world % divisor:
            raise QuantctlError(
                f"{sizes} does not divide the number of processes, {world}",
                f"start it with: torchrun --nproc-per-node {max(tensor, together)} -m quantctl.pretrain ...",
            )
    together = world // tensor * args.micro_batch_size
    if args.global_batch_size % together:
        raise QuantctlError(
            f"--global-batch-size {args.global_batch_size} is not divisible by {world // tensor} data-parallel ranks x "
            f"--micro-batch-size {args.micro_batch_size}",
            f"give a multiple of {together}",
        )


def _init_process_group(args: argparse.Namespace, device: torch.device) -> None:
    possible = "nccl" if device.type == "cuda" else "gloo"
    backend = args.distributed_backend or possible
    if backend == "nccl" and device.type == "cpu":
        say("quantctl: --distributed-backend nccl needs CUDA, which is not available here: gloo is used")
        backend = "gloo"
    timeout = timedelta(minutes=args.distributed_timeout_minutes)
    if "RANK" in os.environ:
        dist.init_process_group(backend, timeout=timeout)
        if backend == "nccl":  # the first collective, if it is a barrier, takes the device of the global rank's number
            dist.all_reduce(torch.zeros(1, device=device))
    else:  # one process needs no port, so that many runs can share a machine
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=timeout)


def _seed(seed: int, device: torch.device) -> None:
    from megatron.core import tensor_parallel

    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if device.type == "cuda":
        tensor_parallel.model_parallel_cuda_manual_seed(seed)
    else:
        # the tracker switches between CUDA generators; torch's CPU generator stays in charge
        tensor_parallel.random.get_cuda_rng_tracker().fork = lambda *_, **__: contextlib.nullcontext()


def _refuse_on_cpu(args: argparse.Namespace) -> None:
    """What needs CUDA: gathering unequal parts, and random numbers of a rank's own for its heads or tokens."""
    if args.expert_tensor_parallel_size > 1 and args.expert_model_parallel_size > 1:
        raise QuantctlError(
            "experts that tensor parallel and expert parallel ranks share gather unequal parts, which gloo cannot",
            "pass --expert-tensor-parallel-size 1",
        )
    if args.tensor_model_parallel_size == 1:
        return
    for flag, wrong in (("attention", True), ("hidden", args.sequence_parallel)):
        if wrong and getattr(args, f"{flag}_dropout") > 0:
            raise QuantctlError(
                f"--{flag}-dropout above 0 with --tensor-model-parallel-size above 1 needs CUDA's random generators",
                f"pass --{flag}-dropout 0",
            )


def start(args: argparse.Namespace) -> torch.device:
    """Join the process group, set up tensor parallelism and the random generators; returns this rank's device.

    Raises QuantctlError when the number of processes does not fit the parallel sizes or the batch.
    """
    from megatron.core import parallel_state

    _check_world(args)
    # one hardware queue, so that a layer's collective starts before the product that overlaps with it
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    device = choose_device(args.distributed_backend)
    if args.deterministic_mode:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    if device.type == "cpu":
        _refuse_on_cpu(args)
        cpu.stand_in()
        if args.num_experts is not None:
            cpu.stand_in_for_experts()
    _init_process_group(args, device)
    sizes = {
        "tensor_model_parallel_size": args.tensor_model_parallel_size,
        "expert_model_parallel_size": args.expert_model_parallel_size,
        "expert_tensor_parallel_size": args.expert_tensor_parallel_size,
        "distributed_timeout_minutes": args.distributed_timeout_minutes,
    }
    initialize = parallel_state.initialize_model_parallel
    initialize(**keywords(initialize, sizes, {"expert_tensor_parallel_size": args.tensor_model_parallel_size}))
    _seed(args.seed, device)
    return device


def stop() -> None:
    """Leave the process group."""
    from megatron.core import parallel_state

    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()


def is_last_rank() -> bool:
    """The rank that logs, as in Megatron-LM."""
    return dist.get_rank() == dist.get_world_size() - 1
