"""Which device is measured, and what a figure needs beside it: its name, driver and versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import torch

from quantctl.errors import QuantctlError
from quantctl.runs.variables import deciding

PACKAGES = ("quantctl", "torch", "triton", "torchao", "mx", "megatron-core")


@dataclass(frozen=True)
class Setting:
    """What all benchmarks of a run share."""

    device: torch.device
    quick: bool = False
    """Fewer cases and repeats."""

    @property
    def full(self) -> bool:
        """The true sizes, which targets are about; a CPU gets smaller ones."""
        return self.device.type == "cuda"


def choose_device(name: str | None) -> torch.device:
    """`cpu`, `cuda`, or for None a GPU where there is one. Raises QuantctlError for a GPU that is not there."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise QuantctlError(
            f"torch {torch.__version__} sees no CUDA device",
            "check nvidia-smi and CUDA_VISIBLE_DEVICES, or measure smaller sizes with --device cpu",
        )
    kind = name or ("cuda" if available else "cpu")
    return torch.device("cuda", torch.cuda.current_device()) if kind == "cuda" else torch.device(kind)


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """These variables, and the ones from before afterwards."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def thread_counts(setting: Setting) -> tuple[int, ...]:
    """With how many threads of a CPU to measure: one, and as many as torch takes. Once, on a GPU."""
    count = torch.get_num_threads()
    return (count,) if setting.full else tuple(dict.fromkeys((1, count)))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many, here and in the processes that are started."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with environment(OMP_NUM_THREADS=str(count)):
            yield
    finally:
        torch.set_num_threads(before)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _driver(uuid: str) -> str | None:
    """The driver's version, from nvidia-smi; None where that is missing."""
    query = ["nvidia-smi", "-i", uuid, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _device(device: torch.device) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "kind": device.type,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if device.type != "cuda":
        return facts | {"name": facts["processor"]}
    properties = torch.cuda.get_device_properties(device)
    uuid = str(properties.uuid)
    return facts | {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "capability": f"{properties.major}.{properties.minor}",
        "driver": _driver(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}"),
    }


def describe(setting: Setting) -> dict[str, Any]:
    """Date, device, versions and which sizes: the head of the document."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "sizes": "full" if setting.full else "reduced",
        "device": _device(setting.device),
        "versions": {
            "python": platform.python_version(),
            "cuda": torch.version.cuda if setting.full else None,
            **{package: _version(package) for package in PACKAGES},
        },
        "environment": {k: v for k, v in deciding(os.environ).items() if k.startswith("QUANTCTL_")},
    }
