"""Slurm: what a job is submitted with, and what a job finds out about itself."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

from quantctl.errors import QuantctlError

OPTIONS: tuple[str, ...] = (
    # one task a node: torchrun starts the rest
    "--ntasks-per-node=1",
    "--requeue",
    # what a requeued job writes comes behind what it wrote before
    "--open-mode=append",
    # five minutes before the limit, to the batch script alone: `quantctl launch` saves, ends and requeues
    "--signal=B:USR1@300",
    "--output=%x-%j.out",
)
"""What sbatch is told for every training; a later option of the same name wins."""

DEVICES: dict[str, str] = {"cuda": "--gpus-per-node={}", "npu": "--gres=npu:{}"}
"""Platform -> how Slurm is asked for a node's devices. A CPU run asks for none."""


def options(name: str, platform: str, devices: int, extra: Sequence[str] = ()) -> list[str]:
    """sbatch's options for one training; `extra` come last and so win."""
    asked = [DEVICES[platform].format(devices)] if platform in DEVICES else []
    return [f"--job-name={name}", *OPTIONS, *asked, *extra]


def _scontrol(*arguments: str) -> str:
    try:
        done = subprocess.run(["scontrol", *arguments], capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise QuantctlError(
            "SLURM_JOB_ID is set and there is no scontrol", "run it where Slurm is installed"
        ) from error
    except subprocess.CalledProcessError as error:
        raise QuantctlError(f"scontrol {' '.join(arguments)}: {error.stderr.strip()}", "see the line above") from error
    return done.stdout


def first_host(node_list: str) -> str:
    """The host that rank 0 runs on, of a list such as gpu[03-04,07]."""
    return _scontrol("show", "hostnames", node_list).split()[0]


def port(job_id: int) -> int:
    """A port of the job's own, below those the kernel gives out (32768 and up); array tasks have ids of their own."""
    return 10000 + job_id % 20000


def is_batch(environment: Mapping[str, str]) -> bool:
    """Whether this is a job's batch script (or a shell in its allocation), and not a task that srun started."""
    return "SLURM_JOB_ID" in environment and "SLURM_STEP_ID" not in environment


def srun(nodes: int) -> list[str]:
    """Starts one task on each node with all of the node's cores; when one fails, the others end too."""
    return [
        "srun",
        f"--nodes={nodes}",
        f"--ntasks={nodes}",
        "--ntasks-per-node=1",
        "--cpu-bind=none",
        "--kill-on-bad-exit=1",
    ]


def requeue(job_id: str) -> None:
    """Put this very job back into the queue, which ends it."""
    _scontrol("requeue", job_id)
