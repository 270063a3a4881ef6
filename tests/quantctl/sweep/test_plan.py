"""What a sweep consists of."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from quantctl.errors import QuantctlError
from quantctl.modes import SCRIPT_MODES
from quantctl.sweep.plan import selectors_of, tasks


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
    ({"modes": ("fp8",)}, "neither a mode nor selectors"),
    ({"modes": ("linear=fp8",)}, "unknown format 'fp8'"),
    ({"modes": ("head=mxfp8",)}, "neither a mode nor selectors"),
    ({"modes": (" ",)}, "an empty mode"),
    ({"modes": ("attention=flash",)}, "attention: 'flash' is unknown"),
    ({"modes": ("linear=mxfp8 linear=mxfp4",)}, "says linear twice"),
    ({"models": ("gpt",)}, "unknown model 'gpt'"),
    ({"dataset": "pile"}, "unknown dataset 'pile'"),
    ({"modes": ("linear=mxfp8 qk=mxfp8", "linear=mxfp8  qk=mxfp8")}, "share a run directory"),
]


@pytest.mark.parametrize(("changed", "message"), WRONG)
def test_nothing_is_planned_from_wrong_words(changed, message, tmp_path):
    with pytest.raises(QuantctlError, match=message):
        plan(tmp_path, **changed)


def test_equal_selectors_read_equal():
    assert selectors_of("linear=mxfp8:scale=rceil") == {"linear": "mxfp8"}


@pytest.mark.parametrize(
    ("attempts", "finished"), [([{"finished": True}], True), ([{"finished": True}, {}], False), ([], False)]
)
def test_finished_is_what_the_last_attempt_says(attempts, finished, tmp_path):
    task = plan(tmp_path)[0]
    assert not task.is_finished()
    task.run_dir.mkdir(parents=True)
    (task.run_dir / "manifest.json").write_text(json.dumps({"attempts": attempts}))
    assert task.is_finished() is finished


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
    assert [line.split(")")[0].strip() for line in lines if " exec env " in line] == ["0", "1", "2", "3"]
    run_dir = tmp_path / "s w" / "llama32-1b" / "FA_nvfp4-seed2"
    assert f"SEED=2 'RUN_DIR={run_dir}' 'SELECTORS=--mode FA_nvfp4' bash " in lines[-3]
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
