"""The three kinds of machines: what their runs need in the environment, and how a stock trainer is started there."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Platform:
    """One value of PLATFORM."""

    name: str
    """cuda, npu or cpu."""
    summary: str
    """One line for people."""
    variables: tuple[tuple[str, str], ...]
    """Environment variables of a run; one that the caller has set stays as it is. {processes} are a node's."""
    setup: tuple[str, ...] = ()
    """Files one of which is sourced first: SET_ENV, else the first of these that exists. {home} is the user's."""
    adaptor: tuple[str, ...] = ()
    """What stands before a stock checkout's pretrain_gpt.py. MindSpeed-LLM's imports its adaptor itself."""


PLATFORMS: dict[str, Platform] = {
    platform.name: platform
    for platform in (
        Platform(
            name="cuda",
            summary="NVIDIA GPUs",
            # Megatron demands one work queue with tensor parallelism on GPUs before Blackwell
            variables=(("CUDA_DEVICE_MAX_CONNECTIONS", "1"),),
        ),
        Platform(
            name="npu",
            summary="Ascend NPUs: CANN, torch_npu and MindSpeed; the formats as torch reference kernels",
            # CANN 8.5 renamed its folder; without root it installs to the home directory
            setup=tuple(
                f"{root}/Ascend/{folder}/set_env.sh"
                for root in ("/usr/local", "{home}")
                for folder in ("cann", "ascend-toolkit")
            ),
            adaptor=("-m", "quantctl.launch.mindspeed"),
            variables=(
                ("CUDA_DEVICE_MAX_CONNECTIONS", "1"),
                ("PYTORCH_NPU_ALLOC_CONF", "expandable_segments:True"),
                # seconds: the first step compiles operators, and ranks are not done at the same time
                ("HCCL_CONNECT_TIMEOUT", "3600"),
                ("HCCL_EXEC_TIMEOUT", "7200"),
                ("TASK_QUEUE_ENABLE", "2"),
                ("CPU_AFFINITY_CONF", "1"),
                ("NPUS_PER_NODE", "{processes}"),
                ("QUANTCTL_KERNELS", "reference"),
            ),
        ),
        Platform(
            name="cpu",
            summary="no GPU, even where there is one",
            variables=(("CUDA_VISIBLE_DEVICES", ""),),
        ),
    )
}
"""Name -> platform; the first is the default."""
