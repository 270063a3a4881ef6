"""`check -- COMMAND`: who decides the formats of a training command."""

from __future__ import annotations

import json

import pytest

COMMANDS = {
    "local layers, selectors set": (["--transformer-impl", "local"], "selectors", "the selectors rule: linear=mxfp8"),
    "TE layers, its recipe": (
        ["--fp8-format", "hybrid"],
        "transformer_engine",
        "their own recipe: fp8 hybrid, delayed; the selectors (linear=mxfp8) are never executed",
    ),
    "TE layers, no recipe": ([], "nobody", "compute in the training dtype"),
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


def test_a_command_that_trains_nothing(quantctl):
    done = quantctl("check", "--", "ls", "-l")
    assert done.status == 2
    assert "ls: no Megatron training was found" in done.err


def test_without_a_command_nothing_is_said_of_one(quantctl):
    assert json.loads(quantctl("--json", "check").out)["command"] is None
