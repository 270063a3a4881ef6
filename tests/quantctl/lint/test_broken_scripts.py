"""Five scripts, each broken in the ways of one family: everything is found, at its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantctl.lint.case import Setting
from quantctl.lint.judge import judge, read_script
from quantctl.tree.state import read_state

SCRIPTS = Path(__file__).parent / "scripts"

FINDINGS = {
    "flags.sh": [
        {
            ("error", "flag-unknown", "--hidden-sizes"),
            ("error", "flag-removed", "--moe-extended-tp"),
            ("error", "flag-choice", "--fp8-format"),
            ("error", "flag-value", "--train-iters"),
            ("error", "flag-count", "--use-mcore-models"),
            ("error", "flag-count", "--step-batch-size-schedule"),
            ("error", "fp8-ignored", "--fp8-format"),
        },
    ],
    "train_8b_linear_mxfp8.sh": [
        {
            ("error", "selectors-never-run", "--transformer-impl"),
            ("error", "name-says-otherwise", "--transformer-impl"),
            ("error", "stops-at-start", None),  # 250 is no multiple of 4 heads
        },
    ],
    "layers.sh": [
        {
            ("error", "persist-layer-norm", "--no-persist-layer-norm"),
            ("error", "norm-sequence-parallel", "--sequence-parallel"),
            ("error", "mla-local", "--multi-latent-attention"),
            ("error", "gqa-with-mla", "--group-query-attention"),
            ("error", "attention-backend-local", "--attention-backend"),
            ("error", "context-parallel-local", "--context-parallel-size"),
        },
    ],
    "pretrain_deepseek_v2_lite.sh": [
        {
            ("error", "model-mismatch", "--hidden-size"),
            ("error", "sequence-length", "--max-position-embeddings"),
            ("error", "world-size", "--tensor-model-parallel-size"),
            ("error", "heads", "--num-attention-heads"),
            ("warning", "yarn-factor", "--rotary-scaling-factor"),
            ("warning", "cuda-connections", "--tensor-model-parallel-size"),
        },
    ],
    "status.sh": [
        {("warning", "exit-status-lost", None), ("warning", "literal-quotes", "--split")},
        {("warning", "exit-status-lost", None)},
    ],
}
"""Script -> for each training command its findings but notes: severity, rule, first flag."""


@pytest.fixture(scope="module")
def setting(megatron_tree) -> Setting:
    root = megatron_tree("0.19.0")
    return Setting("0.19.0", root, read_state(root))


@pytest.mark.parametrize("script", FINDINGS)
def test_what_is_broken_is_found_and_nothing_else(script, setting):
    judged = judge(read_script(SCRIPTS / script), setting)
    found = [
        {
            (finding.severity.value, finding.rule.id, finding.parameters[0] if finding.parameters else None)
            for finding in one.findings
            if finding.severity.value != "note"
        }
        for one in judged
    ]
    assert found == FINDINGS[script]


@pytest.mark.parametrize("script", FINDINGS)
def test_a_finding_names_the_line_of_its_command(script, setting):
    lines = (SCRIPTS / script).read_text().splitlines()
    for one in judge(read_script(SCRIPTS / script), setting):
        for finding in one.findings:
            assert "pretrain_gpt.py" in lines[finding.line - 1]
