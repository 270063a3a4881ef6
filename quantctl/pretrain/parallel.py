"""Processes and devices: the process group, Megatron's parallel state, and what its layers expect to find on a CPU."""

from __future__ import annotations

import argparse
import os
import random
import sys
from datetime import timedelta

import numpy
import torch
import torch.distributed as dist

from quantctl.errors import QuantctlError


def say(text: str) -> None:
    """Prose for people, once: rank 0 writes it to stderr."""
    if os.environ.get("RANK", "0") == "0":
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def choose_device() -> torch.device:
    """This rank's CUDA device where there is one, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def _check_world(args: argparse.Namespace) -> None:
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == args.tensor_model_parallel_size:
        return
    if world == 1:
        raise QuantctlError(
            f"--tensor-model-parallel-size {args.tensor_model_parallel_size} needs as many processes; there is one",
            f"start it with: torchrun --nproc-per-node {args.tensor_model_parallel_size} -m quantctl.pretrain ...",
        )
    raise QuantctlError(
        f"{world} processes with --tensor-model-parallel-size {args.tensor_model_parallel_size} would be data parallel",
        f"pass --tensor-model-parallel-size {world}; data parallelism needs Megatron-LM's own trainer",
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
        # the training tracker stores CUDA generators; this one's fork() leaves torch's CPU generator in charge
        tensor_parallel.random.initialize_rng_tracker(inference_rng_tracker=True)


def _provide_attention_buffer(args: argparse.Namespace) -> None:
    """Give DotProductAttention its score buffer [b * np / tp, s, s] on the CPU; it would allocate it on CUDA."""
    from megatron.core import parallel_state

    dtype = torch.bfloat16 if args.bf16 else torch.float32
    heads = args.num_attention_heads // args.tensor_model_parallel_size
    elements = args.micro_batch_size * heads * args.seq_length**2
    parallel_state.get_global_memory_buffer().buffer["mpu", dtype] = torch.empty(elements, dtype=dtype)


def start(args: argparse.Namespace) -> torch.device:
    """Join the process group, set up tensor parallelism and the random generators; returns this rank's device.

    Raises QuantctlError when the number of processes is not the tensor parallel size.
    """
    from megatron.core import parallel_state

    _check_world(args)
    # one hardware queue, so that a layer's collective starts before the product that overlaps with it
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    device = choose_device()
    if args.deterministic_mode:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    if device.type == "cpu" and args.tensor_model_parallel_size > 1 and args.attention_dropout > 0:
        raise QuantctlError(
            "--attention-dropout above 0 with --tensor-model-parallel-size above 1 needs CUDA's random generators",
            "pass --attention-dropout 0",
        )
    _init_process_group(args, device)
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=args.tensor_model_parallel_size)
    _seed(args.seed, device)
    if device.type == "cpu":
        _provide_attention_buffer(args)
    return device


def stop() -> None:
    """Leave the process group."""
    from megatron.core import parallel_state

    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()


def is_last_rank() -> bool:
    """The rank that logs, as in Megatron-LM."""
    return dist.get_rank() == dist.get_world_size() - 1
