"""What a sweep consists of."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path

import pytest

from quantctl.errors import QuantctlError
from quantctl.modes import SCRIPT_MODES, selection
from quantctl.sweep import record
from quantctl.sweep.plan import tasks


def plan(tmp_path, modes=SCRIPT_MODES, seeds=(1, 2), models=("llama32-1b",), dataset="wikipedia"):
    return tasks(models, dataset, modes, seeds, tmp_path, {"TRAINING_CONFIG": "smoke"}, ("--lr", "1"))


def test_one_run_a_model_mode_and_seed(tmp_path):
    made = plan(tmp_path, models=("llama32-1b", "llama31-8b"))
    assert len(made) == len({task.run_dir for task in made}) == 2 * 10 * 2
    # the reference and a whole seed come first
    assert [(task.mode, task.seed) for task in made[:11]] == [*((mode, 1) for mode in SCRIPT_MODES), ("bf16", 2)]


def test_a_mode_runs_its_own_script(tmp_path):
    task = plan(tmp_path, ("FA_mxfp4",), (7,))[0]
    assert Path(task.command[1]).name == "pretrain_llama32-1b_wikipedia_FA_mxfp4.sh"
    assert task.command[2:] == ["--", "--lr", "1"]
    variables = task.variables(CUDA_VISIBLE_DEVICES="3")
    assert variables["SEED"] == "7"
    assert variables["RUN_DIR"] == str(tmp_path / "llama32-1b" / "FA_mxfp4-seed7")
    assert (variables["TRAINING_CONFIG"], variables["CUDA_VISIBLE_DEVICES"]) == ("smoke", "3")
    assert variables["SELECTORS"] == ""


SELECTIONS = [
    ("linear=mxfp8:scale=floor qk=mxfp4", "--linear mxfp8:scale=floor --qk mxfp4", "linear-mxfp8_scale-floor_qk-mxfp4"),
    ("lm_head=hifp8", "--lm-head hifp8", "lm_head-hifp8"),
    ("FA_nvfp4", "--mode FA_nvfp4", "FA_nvfp4"),
]


@pytest.mark.parametrize(("mode", "words", "folder"), SELECTIONS)
def test_selectors_that_have_no_script_go_through_the_reference_script(mode, words, folder, tmp_path):
    task = plan(tmp_path, (mode,), (1,))[0]
    assert Path(task.command[1]).name == "pretrain_llama32-1b_wikipedia_bf16.sh"
    assert task.variables()["SELECTORS"] == words
    assert task.run_dir.name == f"{folder}-seed1"


WRONG = [
    ({"modes": ("fp5",)}, "unknown mode 'fp5'"),
    ({"modes": ("linear=fp5",)}, "unknown format 'fp5'"),
    ({"modes": ("head=mxfp8",)}, "unknown selector 'head'"),
    ({"modes": (" ",)}, "an empty mode"),
    ({"modes": ("attention=flash",)}, "attention: 'flash' is unknown"),
    ({"modes": ("linear=mxfp8 linear=mxfp4",)}, "says linear twice"),
    ({"models": ("gpt",)}, "unknown model 'gpt'"),
    ({"dataset": "pile"}, "unknown dataset 'pile'"),
]


@pytest.mark.parametrize(("changed", "message"), WRONG)
def test_nothing_is_planned_from_wrong_words(changed, message, tmp_path):
    with pytest.raises(QuantctlError, match=message):
        plan(tmp_path, **changed)


def test_equal_selectors_read_equal():
    assert selection("linear=mxfp8:scale=rceil") == {"linear": "mxfp8"}


@pytest.mark.parametrize(
    ("attempts", "finished"), [([{"finished": True}], True), ([{"finished": True}, {}], False), ([], False)]
)
def test_finished_is_what_the_last_attempt_says(attempts, finished, tmp_path):
    task = plan(tmp_path)[0]
    assert not task.is_finished()
    task.run_dir.mkdir(parents=True)
    (task.run_dir / "manifest.json").write_text(json.dumps({"selectors": {}, "attempts": attempts}))
    assert task.is_finished() is finished


def noted(tmp_path, settings=(), trailing=(), dataset="wikipedia", mode="linear=mxfp8 qk=mxfp4"):
    settings = {"TRAINING_CONFIG": "smoke", "TRAIN_ITERS": "40"} | dict(settings)
    return tasks(("llama32-1b",), dataset, (mode,), (1,), tmp_path, settings, ("--lr", "1", *trailing))[0]


@pytest.fixture
def other(tmp_path, monkeypatch):
    """A run directory that says what it is one of."""
    for name in record.DECIDING:
        monkeypatch.delenv(name, raising=False)
    task = noted(tmp_path)
    record.write(task.run_dir, task.experiment)
    return task.run_dir


def test_what_a_run_directory_says(other):
    assert json.loads((other / "sweep.json").read_text()) == {
        "dataset": "wikipedia",
        "mode": "linear=mxfp8 qk=mxfp4",
        "model": "llama32-1b",
        "seed": 1,
        "settings": {"TRAINING_CONFIG": "smoke", "TRAIN_ITERS": "40"},
        "trailing": ["--lr", "1"],
    }


SAME = {
    "the same words": {},
    "spaces": {"mode": "linear=mxfp8  qk=mxfp4"},
    "what is recorded": {"settings": {"STATS": "every=10"}},
    "tree and interpreter": {"settings": {"MEGATRON_LM_PATH": "/elsewhere", "PYTHON": "python3"}},
    "output": {"settings": {"CHECKPOINT_PATH": "/scratch"}, "trailing": ("--log-interval", "5", "--save-interval=7")},
}


@pytest.mark.parametrize("case", SAME)
def test_a_sweep_goes_on_with(case, other, tmp_path):
    assert noted(tmp_path, **SAME[case]).run_dir == other


OTHER = {
    "dataset": ({"dataset": "dolma"}, "dataset wikipedia there, dolma here"),
    "data": ({"settings": {"DATA_PATH": "data/x"}}, "DATA_PATH absent there, data/x here"),
    "iterations": ({"settings": {"TRAIN_ITERS": "80"}}, "TRAIN_ITERS 40 there, 80 here"),
    "dtype": ({"settings": {"DTYPE": "fp16"}}, "DTYPE absent there, fp16 here"),
    "size": ({"settings": {"TRAINING_CONFIG": "fast"}}, "TRAINING_CONFIG smoke there, fast here"),
    "a flag": ({"trailing": ("--lr", "2")}, "--lr 1 there, 2 here"),
    "a flag more": ({"trailing": ("--fp16",)}, "--fp16 absent there, given here"),
}


@pytest.mark.parametrize("case", OTHER)
def test_the_run_directory_of_another_sweep_is_not_taken(case, other, tmp_path):
    changed, message = OTHER[case]
    with pytest.raises(QuantctlError) as caught:
        noted(tmp_path, **changed)
    assert caught.value.message == f"{other} is of another sweep: {message}"
    assert "another --output" in caught.value.hint


def test_force_takes_it_and_runs_what_is_finished_again(other, tmp_path):
    (other / "manifest.json").write_text(json.dumps({"selectors": {}, "attempts": [{"finished": True}]}))
    assert noted(tmp_path).is_finished()
    forced = noted(tmp_path, settings={"FORCE": "1"}, dataset="dolma")
    assert (forced.run_dir, forced.is_finished()) == (other, False)


def test_settings_of_the_environment_count(other, tmp_path, monkeypatch):
    monkeypatch.setenv("DTYPE", "fp16")
    with pytest.raises(QuantctlError, match="DTYPE absent there, fp16 here"):
        noted(tmp_path)


def test_a_run_directory_that_says_nothing_is_accepted(tmp_path):
    folder = noted(tmp_path).run_dir
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"selectors": {}, "attempts": [{"finished": True}]}))
    assert noted(tmp_path, dataset="dolma").is_finished()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"settings": 1, "trailing": []}'])
def test_a_damaged_record(text, other, tmp_path):
    (other / "sweep.json").write_text(text)
    with pytest.raises(QuantctlError, match=r"sweep\.json: "):
        noted(tmp_path)


def test_nothing_runs_where_another_sweep_ran(other, quantctl, tmp_path):
    options = ["--model", "llama32-1b", "--dataset", "dolma", "--mode", "linear=mxfp8 qk=mxfp4", "--seeds", "1"]
    done = quantctl("sweep", *options, "--output", tmp_path)
    assert done.status == 2
    assert f"{other} is of another sweep: dataset wikipedia there, dolma here" in done.err
    assert [path.name for path in other.iterdir()] == ["sweep.json"]


def test_submitted_runs_say_what_they_are_one_of(quantctl, tmp_path):
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text("#!/bin/sh\ncat >/dev/null\n")
    sbatch.chmod(0o755)
    environment = {"PATH": f"{sbatch.parent}:{os.environ['PATH']}"}
    options = ["sweep", "--model", "llama32-1b", "--dataset", "wikipedia", "--mode", "bf16", "--launcher", "slurm"]
    options += ["--output", tmp_path / "s"]
    note = tmp_path / "s" / "llama32-1b" / "bf16-seed1234" / "sweep.json"
    assert quantctl(*options, "--dry-run", env=environment).status == 0
    assert not note.exists()
    done = quantctl(*options, env=environment)
    assert done.status == 0, done.err
    assert json.loads(note.read_text())["mode"] == "bf16"
    assert "is of another sweep" in quantctl(*options, "--iterations", 3, env=environment).err


def test_a_sweep_as_one_job_array(quantctl, tmp_path):
    options = [
        "--model",
        "llama32-1b",
        "--dataset",
        "wikipedia",
        "--seeds",
        "1,2",
        "--mode",
        "bf16",
        "--mode",
        "FA_nvfp4",
    ]
    options += ["--launcher", "slurm", "--jobs", 3, "--sbatch=--time=8:00:00", "--stats", "every=50"]
    done = quantctl("sweep", *options, "--output", tmp_path / "s w", "--dry-run")
    assert done.status == 0, done.err
    lines = done.out.splitlines()
    assert " --gpus-per-node=8 --array=0-3%3 --time=8:00:00 <<'EOF'" in lines[0]
    runs = [line for line in lines if " exec env " in line]
    assert [line.split(")")[0].strip() for line in runs] == ["0", "1", "2", "3"]
    run_dir = tmp_path / "s w" / "llama32-1b" / "FA_nvfp4-seed2"
    assert f"SEED=2 'RUN_DIR={run_dir}' 'SELECTORS=--mode FA_nvfp4' bash " in runs[-1]
    data = json.loads(quantctl("--json", "sweep", *options, "--output", tmp_path / "s w", "--dry-run").out)
    assert f"{shlex.join(data['command'])} <<'EOF'\n{data['stdin']}EOF\n" == done.out


def test_the_planned_runs_as_data(quantctl, tmp_path):
    options = ["--model", "llama32-1b", "--dataset", "dolma", "--mode", "bf16", "--seeds", "7", "--output", tmp_path]
    assert json.loads(quantctl("--json", "sweep", *options, "--dry-run").out) == [
        {
            "model": "llama32-1b",
            "dataset": "dolma",
            "mode": "bf16",
            "seed": 7,
            "run_dir": str(tmp_path / "llama32-1b" / "bf16-seed7"),
            "finished": False,
        }
    ]


def test_options_that_do_not_go_together(quantctl):
    options = ["sweep", "--model", "llama32-1b", "--dataset", "wikipedia", "--dry-run"]
    assert "--sbatch is for Slurm" in quantctl(*options, "--sbatch=--time=1").err
    assert "both say how many" in quantctl(*options, "--jobs", 2, "--devices", "0").err
    assert "is no option of it" in quantctl(*options, "--stats", "often").err
    assert "these are no numbers" in quantctl(*options, "--seeds", "a").err


def test_a_literal_reaches_its_script_whole(tmp_path):
    mode = "linear=mxfp4; layers 1-2,-1: none; linear_fc2: round=stochastic qk=mxfp8"
    (task,) = tasks(["llama32-1b"], "wikipedia", [mode], [1], tmp_path, {})
    words = shlex.split(task.variables()["SELECTORS"])
    assert words == ["--linear", "mxfp4; layers 1-2,-1: none; linear_fc2: round=stochastic", "--qk", "mxfp8"]
    assert re.fullmatch(r"linear-mxfp4_layers_1-2_-1_none_[\w.+-]+-[0-9a-f]{8}-seed1", task.name)
    assert len(task.name) <= 86
