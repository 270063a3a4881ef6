"""Layers that the pipeline's stages cannot share out.

Severity: error

Why: without a flag that shares them out otherwise, every stage takes the same number of layers

Fix: make --num-layers a multiple of --pipeline-model-parallel-size, or say what the first and last stage take

Releases: all

Evidence: core/transformer/transformer_config.py, transformer_block.py
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit

_OTHERWISE = (
    "--decoder-first-pipeline-num-layers",
    "--decoder-last-pipeline-num-layers",
    "--account-for-embedding-in-pipeline-split",
    "--account-for-loss-in-pipeline-split",
    "--pipeline-model-parallel-layout",
    "--standalone-embedding-stage",
    "--encoder-pipeline-model-parallel-size",
    "--pipeline-model-parallel-split-rank",
    "--mtp-num-layers",
    "--hybrid-override-pattern",
    "--hybrid-layer-pattern",
)


def check(case: Case) -> Iterator[Hit]:
    layers, stages = case.size("--num-layers"), case.size("--pipeline-model-parallel-size")
    if not layers or not stages or layers % stages == 0 or not case.is_megatron:
        return
    if all(case.has(name) is False for name in _OTHERWISE):
        yield Hit(
            f"--num-layers {layers} is no multiple of {stages} pipeline stages",
            ("--num-layers", "--pipeline-model-parallel-size"),
        )
