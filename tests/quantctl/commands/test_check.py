"""`check -- COMMAND`: who decides the formats of a training command."""

from __future__ import annotations

import json

import pytest

COMMANDS = {
    "local layers, selectors set": (["--transformer-impl", "local"], "selectors", "the selectors rule: linear=mxfp8"),
    "TE layers, both ask": (
        ["--fp8-format", "hybrid"],
        "both",
        "their own recipe, fp8 hybrid, delayed, and the selectors rule: linear=mxfp8: refused at the start",
    ),
    "TE layers, a recipe of its own": (
        ["--fp8-format", "e4m3", "--fp8-recipe", "custom", "--fp8-quantizer-factory", "ours.make"],
        "both",
        "fp8 e4m3, custom of ours.make, and the selectors",
    ),
    "TE layers, a precision file": (
        ["--te-precision-config-file", "p.yaml"],
        "selectors",
        "p.yaml names those that their own recipe rules, and of the others the selectors rule: linear=mxfp8",
    ),
    "TE layers, no recipe": ([], "selectors", "the transformer_engine layers; the selectors rule: linear=mxfp8"),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_who_rules(case, quantctl, stock_copy):
    flags, who, sentence = COMMANDS[case]
    tree = stock_copy("0.16.1")
    assert quantctl("--megatron", tree, "set", "--linear", "mxfp8").status == 0
    command = ["check", "--", "torchrun", "--nproc-per-node", 8, "pretrain_gpt.py", *flags]
    told = json.loads(quantctl("--json", "--megatron", tree, *command).out)["command"]
    assert told["rules"] == who
    assert sentence in told["sentence"]
    assert sentence in quantctl("--megatron", tree, *command).out


def test_layers_of_an_earlier_edition_are_brought_up_to_date(quantctl, stock_copy, megatron_tree):
    """A tree whose local layers were patched before Transformer Engine's could be."""
    tree, file = stock_copy("0.16.1"), "megatron/core/extensions/transformer_engine.py"
    command = ["lint", "--", "torchrun", "pretrain_gpt.py", "--num-layers", 2, "--hidden-size", 64]
    assert quantctl("--megatron", tree, "set", "--linear", "mxfp8").status == 0
    assert "selectors-never-run" not in quantctl("--megatron", tree, *command).out
    (tree / file).write_bytes((megatron_tree("0.16.1") / file).read_bytes())
    assert "selectors-never-run" in quantctl("--megatron", tree, *command).out
    done = quantctl("--megatron", tree, "patch")
    assert done.status == 0, done.err
    assert "te_linear" in done.err
    assert "selectors-never-run" not in quantctl("--megatron", tree, *command).out


def test_a_command_that_trains_nothing(quantctl):
    done = quantctl("check", "--", "ls", "-l")
    assert done.status == 2
    assert "ls: no Megatron training was found" in done.err


def test_without_a_command_nothing_is_said_of_one(quantctl):
    assert json.loads(quantctl("--json", "check").out)["command"] is None
