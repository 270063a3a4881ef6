"""Slurm: what a job is submitted with, and what a job finds out about itself."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence

from quantctl import output
from quantctl.errors import QuantctlError
from quantctl.launch.settings import number, plain, shown

OPTIONS: tuple[str, ...] = (
    # one task a node: torchrun starts the rest
    "--ntasks-per-node=1",
    # RUN_DIR, DATA_PATH and the like travel in the environment, whatever a site's SBATCH_EXPORT says
    "--export=ALL",
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


NUMBERS = (
    "SLURM_JOB_ID",
    "SLURM_JOB_NUM_NODES",
    "SLURM_NODEID",
    "SLURM_STEP_ID",
    "SLURM_STEP_NUM_NODES",
    "SLURM_STEP_NUM_TASKS",
    "SLURM_ARRAY_JOB_ID",
    "SLURM_ARRAY_TASK_ID",
)
"""What a job's variables say in numbers, and decides where a run is."""


def require_numbers(environment: Mapping[str, str]) -> None:
    """Raises QuantctlError for one of Slurm's variables that is set and no number: it is not Slurm's doing."""
    for name in NUMBERS:
        number(environment, name, 0, 0)


def options(name: str, platform: str, devices: int, extra: Sequence[str] = ()) -> list[str]:
    """sbatch's options for one training; `extra` come last and so win.

    Raises QuantctlError for an extra one that is no option, or that would be more than one line of a script.
    """
    for option in extra:
        if not plain("--sbatch", option).startswith("-"):
            raise QuantctlError(
                f"--sbatch {shown(option)} is no option of sbatch",
                "write it as --sbatch=--nodes=2, one for each option",
            )
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
    """The host that rank 0 runs on, of a list such as gpu[03-04,07]; containers often lack scontrol.

    Slurm's own program expands lists; without it the first name is all that is wanted, which takes no library.
    """
    if shutil.which("scontrol") is None:
        hosts = re.sub(r"\[([^],-]+)[^]]*\]", r"\1", node_list).split(",")
    else:
        hosts = _scontrol("show", "hostnames", node_list).split()
    if not hosts or not re.fullmatch(r"[\w.-]+", hosts[0], re.ASCII):
        raise QuantctlError(
            f"{shown(node_list)!r} is no list of hosts", "set MASTER_ADDR to the first node's host name"
        )
    return hosts[0]


def port(job_id: int) -> int:
    """A port of the job's own, below those the kernel gives out (32768 and up); array tasks have ids of their own."""
    return 10000 + job_id % 20000


_NO_TASKS = ("", "4294967290", "4294967291")
"""SLURM_STEP_ID outside srun's steps: not set, of salloc's interactive shell, of the batch script."""


def in_step(environment: Mapping[str, str]) -> bool:
    """Whether srun started this as a task of a job's step."""
    return "SLURM_JOB_ID" in environment and environment.get("SLURM_STEP_ID", "") not in _NO_TASKS


def is_batch(environment: Mapping[str, str]) -> bool:
    """Whether this is a job's batch script (or a shell in its allocation), and not a task that srun started."""
    return "SLURM_JOB_ID" in environment and not in_step(environment)


def for_submission(environment: Mapping[str, str]) -> dict[str, str]:
    """What sbatch gets: without the variables of a job that it is called in, which the new job would take for its own.

    SLURM_CONF says where Slurm itself is.
    """
    return {k: v for k, v in environment.items() if not k.startswith("SLURM_") or k == "SLURM_CONF"}


def look_at_node(environment: Mapping[str, str], platform: str, processes: int) -> None:
    """In a batch script: say it when the job has few CPUs. Raises QuantctlError when it has too few GPUs."""
    gpus, cpus = environment.get("SLURM_GPUS_ON_NODE", ""), environment.get("SLURM_CPUS_ON_NODE", "")
    if platform == "cuda" and gpus.isdecimal() and int(gpus) < processes:
        raise QuantctlError(
            f"{processes} processes, and the job has {gpus} GPUs on this node",
            f"submit with --gpus-per-node={processes}, or set GPUS_PER_NODE={gpus}",
        )
    if cpus.isdecimal() and int(cpus) < 2 * processes:
        output.say(
            f"{processes} processes and {cpus} CPUs on this node: data loading may hold the training up. More: "
            f"--sbatch=--cpus-per-task={2 * processes} or --sbatch=--exclusive"
        )


def srun(nodes: int) -> list[str]:
    """Starts one task on each node with all of the node's cores; when one fails, the others end too."""
    return [
        "srun",
        f"--nodes={nodes}",
        f"--ntasks={nodes}",
        "--ntasks-per-node=1",
        "--cpu-bind=none",
        # a job under --export=NONE tells its steps the same
        "--export=ALL",
        "--kill-on-bad-exit=1",
    ]


def own_name(environment: Mapping[str, str]) -> str:
    """What scontrol calls this very job.

    The id of one task of an array is also the whole array's; its name with the index is the task's alone. The other
    tasks have ids of their own, and those are right even where variables of an earlier job are left over.
    """
    job = environment["SLURM_JOB_ID"]
    of_array = environment.get("SLURM_ARRAY_JOB_ID") == job and "SLURM_ARRAY_TASK_ID" in environment
    return f"{job}_{environment['SLURM_ARRAY_TASK_ID']}" if of_array else job


def requeue(job: str) -> None:
    """Put this very job back into the queue, which ends it."""
    _scontrol("requeue", job)
