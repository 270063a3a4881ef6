"""`quantctl run`: the shipped script, with options in place of environment variables."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import quantctl.script

SCRIPT = Path(quantctl.script.__file__).parent / "llama32-1b" / "pretrain_llama32-1b_wikipedia_FA_mxfp8.sh"
COMBINATION = ["--model", "llama32-1b", "--dataset", "wikipedia", "--quantization", "FA_mxfp8"]
ENVIRONMENT = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ} | {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
}


@pytest.fixture
def call(tmp_path):
    def run(argv: list[str], **changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(argv, cwd=tmp_path, env=ENVIRONMENT | changes, capture_output=True, text=True, timeout=60)

    return run


@pytest.fixture
def quantctl_(call):
    def run(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        return call([sys.executable, "-m", "quantctl.cli", *arguments], **changes)

    return run


@pytest.mark.parametrize("config", ["standard", "fast", "smoke"])
def test_a_dry_run_prints_what_the_script_prints(config, call, quantctl_):
    direct = call(["bash", str(SCRIPT)], DRY_RUN="1", TRAINING_CONFIG=config)
    run = quantctl_("run", *COMBINATION, "--training-config", config, "--dry-run")
    assert (run.returncode, run.stdout) == (0, direct.stdout)
    assert run.stderr == direct.stderr


@pytest.mark.parametrize(
    ("option", "value", "printed"),
    [
        ("--run-dir", "my runs", "--run-dir 'my runs'"),
        ("--checkpoint", "c", "--save c"),
        ("--tensorboard", "t", "--tensorboard-dir t"),
        ("--tokenizer", "name/of-it", "--tokenizer-model name/of-it"),
        ("--data", "d", "--data-path d"),
        ("--dtype", "fp16", "--fp16"),
        ("--seed", "42", "--seed 42"),
        ("--iterations", "30", "--train-iters 30"),
    ],
)
def test_an_option_wins_over_the_environment(option, value, printed, quantctl_):
    environment = {"RUN_DIR": "e", "CHECKPOINT_PATH": "e", "DTYPE": "fp32", "SEED": "1", "TRAIN_ITERS": "1"}
    done = quantctl_("run", *COMBINATION, "--dry-run", option, value, **environment)
    assert f" {printed} \\\n" in done.stdout


def test_what_follows_dashes_goes_to_megatron(quantctl_):
    done = quantctl_("run", *COMBINATION, "--dry-run", "--", "--timing-log-level", "2", "--name", "a b")
    assert done.stdout.endswith(" \\\n    --timing-log-level 2 \\\n    --name 'a b'\n")


def test_the_tree_goes_on(quantctl_, tmp_path):
    tree = tmp_path / "tree"
    (tree / "megatron" / "core").mkdir(parents=True)
    done = quantctl_("--megatron", str(tree), "run", *COMBINATION, "--dry-run")
    assert f"MEGATRON_LM_PATH={tree}" in done.stdout


def test_the_checkout_around_the_current_directory_trains(quantctl_, tmp_path):
    (tmp_path / "megatron" / "core").mkdir(parents=True)
    (tmp_path / "megatron" / "core" / "__init__.py").touch()
    without = quantctl_("run", *COMBINATION, "--dry-run")
    assert f"tree: {tmp_path} (megatron-core unknown, current directory)" in without.stderr
    assert "it has no pretrain_gpt.py: the embedded trainer trains" in without.stderr
    assert f"MEGATRON_LM_PATH={tmp_path}" in without.stdout
    assert "-m quantctl.pretrain" in without.stdout
    (tmp_path / "pretrain_gpt.py").touch()
    assert f"{tmp_path}/pretrain_gpt.py" in quantctl_("run", *COMBINATION, "--dry-run").stdout
    told = quantctl_("run", *COMBINATION, "--dry-run", MEGATRON_LM_PATH="")
    assert "MEGATRON_LM_PATH" not in told.stdout


@pytest.mark.parametrize(
    ("mode", "script", "words", "run_dir"),
    [
        ("FA_mxfp8", "FA_mxfp8", "--mode FA_mxfp8", "llama32-1b_wikipedia_FA_mxfp8"),
        ("nvfp4", "bf16", "--mode bf16 --attention auto --mode nvfp4", "llama32-1b_wikipedia_nvfp4"),
        (
            "linear=mxfp8:scale=floor lm_head=mxfp4",
            "bf16",
            "--mode bf16 --attention auto --linear mxfp8:scale=floor --lm-head mxfp4",
            "llama32-1b_wikipedia_linear-mxfp8_scale-floor_lm_head-mxfp4",
        ),
    ],
)
def test_any_mode_and_any_selectors(mode, script, words, run_dir, quantctl_):
    named = ["--model", "llama32-1b", "--dataset", "wikipedia", "--training-config", "smoke", "--mode", mode]
    data = json.loads(quantctl_("run", *named, "--dry-run", "--json").stdout)
    assert data["script"].endswith(f"_{script}.sh")
    text = " ".join(data["command"])
    assert words in text
    assert f"--run-dir runs/{run_dir}_smoke " in text


def test_data_of_ones_own_names_the_run(quantctl_, tmp_path):
    for ending in ("bin", "idx"):
        (tmp_path / f"mine_text_document.{ending}").touch()
    given = ["--model", "llama32-1b", "--data", "mine_text_document", "--tokenizer", "t", "--mode", "bf16", "--dry-run"]
    done = quantctl_("run", *given)
    assert done.returncode == 0
    assert "--run-dir runs/llama32-1b_mine_bf16_standard" in done.stdout
    assert "--data-path mine_text_document" in done.stdout
    (planned,) = json.loads(quantctl_("sweep", *given, "--seeds", "1", "--json").stdout)
    assert planned["dataset"] == "mine"


def test_json_is_the_same_command(quantctl_):
    plain = quantctl_("run", *COMBINATION, "--dry-run")
    data = json.loads(quantctl_("--json", "run", *COMBINATION, "--dry-run").stdout)
    assert data["script"] == str(SCRIPT)
    assert data["command"] == shlex.split(plain.stdout.replace(" \\\n", " "))


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["--model", "gpt"], "unknown model 'gpt'", "llama31-8b, llama32-1b, deepseek2_lite"),
        (["--dataset", "c4"], "unknown dataset 'c4'", "wikipedia, dolma"),
        (["--mode", "FA_mx8"], "unknown mode 'FA_mx8'", "FA_mxfp8"),
        (["--training-config", "quick"], "unknown training config 'quick'", "standard, fast, smoke"),
        (["--data", "no/such/data"], "there is no no/such/data.bin", "without their ending"),
    ],
)
def test_refused_with_the_choices_and_nothing_made(arguments, message, hint, quantctl_, tmp_path):
    done = quantctl_("run", *COMBINATION, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert hint in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_failed_training_is_a_failed_run(quantctl_, tmp_path):
    executable = tmp_path / "quantctl"
    executable.write_text("#!/bin/sh\nexit 7\n")
    executable.chmod(0o755)
    (tmp_path / "d.bin").touch()
    (tmp_path / "d.idx").touch()
    done = quantctl_("run", *COMBINATION, "--data", "d", "--tokenizer", "t", QUANTCTL=str(executable))
    assert done.returncode == 7


@pytest.mark.parametrize("command", ["run", "run --launcher slurm", "sweep --mode bf16"])
def test_rules_that_do_not_fit_the_model_are_refused_before_anything_starts(
    command, quantctl_, megatron_tree, tmp_path
):
    (tmp_path / "d.bin").touch()
    (tmp_path / "d.idx").touch()
    asked = ["--model", "llama32-1b", "--data", "d", "--tokenizer", "t", "--mode", "linear=mxfp8; layers 17: none"]
    done = quantctl_(*command.split(), *asked, MEGATRON_LM_PATH=str(megatron_tree("0.16.1")))
    assert (done.returncode, done.stdout) == (2, "")
    said = (
        "quantctl: linear: `layers 17: none`: `layers 17` of a model that has 16\n  name layers that it has, from 1\n"
    )
    assert done.stderr == said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.bin", "d.idx"]
