"""The shipped option tables against the live parsers they were read from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from quantctl.lint.megatron_flags import MAIN, holders, nearest, releases, table

PROBE = Path(__file__).parents[2] / "support" / "megatron_flags.py"
FOLDER = Path(__file__).parents[3] / "quantctl" / "lint" / "megatron_flags"
# the wheels of older releases hold no megatron/training
LIVE = [
    pytest.param("0.17.1", marks=pytest.mark.releases),
    pytest.param("0.18.2", marks=pytest.mark.releases),
    "0.19.0",
    pytest.param("main", marks=pytest.mark.releases),
]


@pytest.mark.parametrize("release", LIVE)
def test_a_table_is_what_the_live_parser_says(release, megatron_tree):
    environment = os.environ | {"PYTHONPATH": str(megatron_tree(release))}
    done = subprocess.run([sys.executable, PROBE], env=environment, check=True, capture_output=True, text=True)
    # Megatron prints while it is imported
    live = json.loads(done.stdout[done.stdout.index("{\n") :])
    assert live == json.loads((FOLDER / f"{release}.json").read_text())


def test_releases_are_in_order():
    assert releases() == ("0.12.3", "0.13.1", "0.14.0", "0.15.3", "0.16.1", "0.17.1", "0.18.2", "0.19.0", MAIN)


@pytest.mark.parametrize(
    ("version", "release"),
    [
        ("0.16.1", "0.16.1"),
        ("0.16.0rc2", "0.16.1"),
        ("0.10.0", "0.12.3"),
        ("0.19.5", "0.19.0"),
        ("0.20.0", "main"),
        ("1.0", "main"),
        ("unknown", "main"),
    ],
)
def test_the_table_for_a_tree(version, release):
    assert nearest(version) == release


def test_an_unknown_release_is_a_key_error():
    with pytest.raises(KeyError):
        table("0.1")


@pytest.mark.parametrize(
    ("release", "name", "nargs", "default", "choices", "attribute"),
    [
        ("0.12.3", "--bf16", 0, "False", None, "bf16"),
        ("0.12.3", "--no-masked-softmax-fusion", 0, "True", None, "masked_softmax_fusion"),
        ("main", "--attention-backend", 1, "auto", ("flash", "fused", "unfused", "local", "auto"), "attention_backend"),
        ("0.16.1", "--fp8-format", 1, "None", ("e4m3", "hybrid"), "fp8"),
        ("main", "--rampup-batch-size", 3, "None", None, "rampup_batch_size"),
        ("0.15.3", "--data-path", "*", "None", None, "data_path"),
    ],
)
def test_what_an_option_says(release, name, nargs, default, choices, attribute):
    option = table(release)[name]
    assert (option.name, option.nargs, option.default, option.choices) == (name, nargs, default, choices)
    assert (option.attribute, option.is_switch) == (attribute, nargs == 0)


def test_where_an_option_exists():
    assert holders("--rope-type")[0] == "0.14.0"
    assert holders("--no-such-flag") == ()
