"""What --json prints is what docs/json.md says. The costlier commands' own tests hold theirs against it as well."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from quantctl.output import SCHEMA

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "json.md").read_text()
RUN = "--model llama32-1b --dataset dolma --mode bf16 --dry-run"
PRINTED = {
    "check": "--megatron TREE check --expect linear=mxfp4 -- torchrun pretrain_gpt.py --num-layers 2",
    "undo, restore": "--megatron TREE undo",
    "log": "--megatron TREE log",
    "list": "list",
    "lint": "lint --release 0.16.1 -- python pretrain_gpt.py --num-layers 2 --fp8-format hybrid",
    "run --dry-run": f"run {RUN} --training-config smoke",
    "run --dry-run --launcher slurm": f"run {RUN} --launcher slurm",
    "sweep --dry-run": f"sweep {RUN} --seeds 1,2",
}


@pytest.mark.parametrize("command", PRINTED)
def test_what_is_printed_is_documented(command, called, documented, megatron_tree, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = PRINTED[command].replace("TREE", str(megatron_tree("0.16.1"))).split()
    data = json.loads(called("--json", *words).out)
    documented(command, data)
    assert not isinstance(data, dict) or data["schema_version"] == SCHEMA


def test_a_key_that_is_not_documented_is_found(documented):
    fine = {"schema_version": 1, "script": "a", "command": ["b"]}
    documented("run --dry-run", fine)
    for wrong in ({**fine, "more": 1}, {**fine, "script": 1}, {**fine, "command": "b"}, {"schema_version": 1}):
        with pytest.raises(AssertionError):
            documented("run --dry-run", wrong)


def test_the_page_names_the_version_and_every_command_that_prints_json(called):
    assert f"`schema_version` first: {SCHEMA}." in PAGE
    sections = " ".join(re.findall(r"^## (.+)$", PAGE, re.MULTILINE))
    without = {"exec", "launch", "generate"}  # they print what they run, or paths
    from quantctl.cli import COMMANDS

    assert [name for name in COMMANDS.keys() - without if name not in sections] == []
