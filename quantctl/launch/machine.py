"""Whether this machine can train a command at all: asked before anything starts."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from quantctl.errors import QuantctlError
from quantctl.launch.flags import last

_DEVICES = ("nvidia[0-9]*", "nvgpu*", "nvhost-gpu", "dxg", "kfd")
"""Under /dev: NVIDIA's, on Jetson and under WSL as well, and AMD's, which torch calls cuda too."""
_WHERE = Path("/dev")
_BYTES_A_WEIGHT = 16
"""Weight, gradient and Adam's two moments in fp32: the least that the embedded trainer keeps on each rank."""
_INITIALIZE = "training/initialize.py"
_TOOLKIT = Path("/usr/local/cuda")
"""Where torch looks for it last."""
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def has_gpu(environment: Mapping[str, str]) -> bool:
    """Whether a process with this environment may find one."""
    hidden = environment.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")
    return not hidden and any(any(_WHERE.glob(name)) for name in _DEVICES)


def _has_nvcc(environment: Mapping[str, str]) -> bool:
    """Whether torch finds the CUDA toolkit's compiler, as torch.utils.cpp_extension looks for it."""
    if home := environment.get("CUDA_HOME") or environment.get("CUDA_PATH"):
        return Path(home, "bin/nvcc").exists()
    return shutil.which("nvcc", path=environment.get("PATH")) is not None or (_TOOLKIT / "bin/nvcc").exists()


def _wants_nvcc(program: str) -> bool:
    """Whether the checkout's trainer compiles kernels at its start: releases up to 0.16, before anything else."""
    try:
        return b"fused_kernels.load(" in Path(program).with_name("megatron").joinpath(_INITIALIZE).read_bytes()
    except OSError:
        return False


def memory() -> int:
    """Bytes of memory that this process may have: the machine's, or its container's."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for limit in _LIMITS:
        try:
            text = Path(limit).read_text().strip()
        except OSError:
            continue
        if text.isdecimal():
            found.append(int(text))
    return min(found)


def _size(flags: Sequence[str], name: str, default: int = 0) -> int:
    text = last(flags, name) or ""
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else default


def weights(flags: Sequence[str]) -> int:
    """Weights that a rank holds at least, from Megatron's flags; norms, routers and MLA's projections not counted."""
    hidden, layers = _size(flags, "--hidden-size"), _size(flags, "--num-layers")
    heads, width = _size(flags, "--num-attention-heads"), _size(flags, "--kv-channels")
    groups = _size(flags, "--num-query-groups", heads)
    dense = layers
    experts = 0
    if "--num-experts" in flags:
        dense = sum(int(count) for count in re.findall(r"\[0\]\*([0-9]{1,6})", last(flags, "--moe-layer-freq") or ""))
        own = _size(flags, "--num-experts") // max(_size(flags, "--expert-model-parallel-size", 1), 1)
        experts = max(layers - dense, 0) * 3 * hidden * own * _size(flags, "--moe-ffn-hidden-size")
    attention = layers * hidden * width * 2 * (heads + groups)
    mlp = dense * 3 * hidden * _size(flags, "--ffn-hidden-size")
    embeddings = _size(flags, "--vocab-size") * hidden
    embeddings *= 2 if "--untie-embeddings-and-output-weights" in flags else 1
    shares = max(_size(flags, "--tensor-model-parallel-size", 1), 1)
    return (attention + mlp + embeddings) // shares + experts


def require(
    trainer: Sequence[str], platform: str, processes: int, environment: Mapping[str, str], instead: str | None = None
) -> None:
    """Raises QuantctlError where Megatron-LM's own trainer finds no GPU, or no nvcc that it calls, and where
    ranks on a CPU find no memory.

    `instead` is a command that works here.
    """
    own = next((word for word in trainer if word.rpartition("/")[2] == "pretrain_gpt.py"), None)
    if platform == "cuda" and has_gpu(environment):
        nvidia = not (_WHERE / "kfd").exists()
        if own and nvidia and _wants_nvcc(own) and not _has_nvcc(environment):
            raise QuantctlError(
                f"{own} compiles kernels when it starts, and the CUDA toolkit's nvcc is not here",
                "install the toolkit, or set CUDA_HOME to where it is",
            )
        return
    if platform not in ("cuda", "cpu"):
        return
    why = "PLATFORM=cpu hides the GPUs" if platform == "cpu" else "this machine has no GPU that a run could use"
    if own:
        raise QuantctlError(
            f"Megatron-LM's own pretrain_gpt.py needs CUDA, and {why}",
            f"without MEGATRON_LM_PATH the embedded trainer runs on a CPU: {instead or 'unset it'}",
        )
    held = weights(trainer)
    needed, there = held * _BYTES_A_WEIGHT * processes, memory()
    if needed > there:
        raise QuantctlError(
            f"{why}, and {processes} processes with {held / 1e9:.2f} billion weights each want at least "
            f"{needed / 1e9:,.0f} GB of its {there / 1e9:,.0f} GB of memory",
            f"a reduced model of the same kind trains here: {instead}"
            if instead
            else "fewer --processes, or a smaller model",
        )
