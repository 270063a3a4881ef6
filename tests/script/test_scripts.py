"""The 60 scripts: what they print, what they refuse, what they pass on."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from quantctl.modes import SCRIPT_MODES, file_name, mode_selectors
from quantctl.pretrain.arguments import parse
from quantctl.script import flags
from quantctl.script.datasets import DATASETS
from quantctl.script.models import MODELS
from quantctl.script.training import OPTIMIZER, TRAINING_CONFIGS

from .conftest import COMBINATIONS, Command, path_of, words

SCRIPT = path_of("llama32-1b", "wikipedia", "FA_linear_mxfp8")
EVERY_RELEASE = json.loads((Path(__file__).parent / "flags_in_every_release.json").read_text())
"""Option strings that 0.12.3, 0.13.1, 0.14.0, 0.15.3, 0.16.1, 0.17.1, 0.18.2 and 0.19.0 all have, read from their
live parsers; with the choices that all of them allow, or null."""

MODES = {
    "bf16": {},
    "FA_mxfp8": {"qk": "mxfp8"},
    "FA_mxfp4": {"qk": "mxfp4"},
    "FA_hifp8": {"qk": "hifp8"},
    "linear_mxfp8": {"linear": "mxfp8"},
    "linear_mxfp4": {"linear": "mxfp4"},
    "linear_hifp8": {"linear": "hifp8"},
    "FA_linear_mxfp8": {"linear": "mxfp8", "qk": "mxfp8"},
    "FA_linear_mxfp4": {"linear": "mxfp4", "qk": "mxfp4"},
    "FA_linear_hifp8": {"linear": "hifp8", "qk": "hifp8"},
}


@pytest.fixture
def dataset(tmp_path) -> Path:
    """An indexed dataset as far as a script looks: both files exist."""
    folder = tmp_path / 'it\'s "my" $HOME data'
    folder.mkdir()
    for ending in (".bin", ".idx"):
        (folder / f"text{ending}").touch()
    return folder / "text"


@pytest.fixture
def recorder(tmp_path) -> Path:
    """A QUANTCTL whose `exec` writes its arguments down and ends with status 7; `launch` is the real one."""
    path = tmp_path / "bin" / "quantctl"
    path.parent.mkdir()
    real = Path(sys.executable).with_name("quantctl")
    path.write_text(
        "#!/bin/sh\n"
        f'case "$1" in launch) exec "{real}" "$@" ;; lint) exit 0 ;; esac\n'
        f"printf '%s\\0' \"$@\" > '{tmp_path}/argv'\nexit 7\n"
    )
    path.chmod(0o755)
    return path


def test_there_are_60_and_the_modes_are_the_ten():
    assert len(COMBINATIONS) == 60
    sites = {mode: {s: f for s, f in mode_selectors(mode).items() if f != "none"} for mode in SCRIPT_MODES}
    assert sites == MODES


def test_a_script_is_data(bash, tmp_path):
    """Short, the flags of the tables in it as they are, and one command at its end; a copy elsewhere is the same."""
    for model, dataset, mode in COMBINATIONS:
        text = path_of(model, dataset, mode).read_text()
        assert len(text.splitlines()) <= 120
        assert text.count("exec ") == 1
        said = {word.strip("()") for word in shlex.split(text.replace("=(", "= "), comments=True)}
        row = MODELS[model]
        for config in TRAINING_CONFIGS.values():
            arch, recipe = (row.smoke, row.smoke_recipe) if config.smoke else (row.full, row.full_recipe)
            lines = (*flags.architecture(arch), *flags.recipe(recipe), *flags.parallel(recipe, config.smoke))
            for word in (word for line in (*lines, *flags.steps(config), *flags.saving(config)) for word in line):
                assert word.strip("()") in said
    copy = shutil.copy(SCRIPT, tmp_path / "mine.sh")
    assert bash(copy, DRY_RUN="1").stdout == bash(SCRIPT, DRY_RUN="1").stdout


def test_shellcheck_finds_nothing():
    shellcheck = Path(sys.executable).with_name("shellcheck")
    scripts = [str(path_of(*combination)) for combination in COMBINATIONS]
    done = subprocess.run([shellcheck, "--enable=quote-safe-variables", *scripts], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("combination", COMBINATIONS, ids="-".join)
def test_the_dry_run_says_what_the_tables_say(combination, dry_runs):
    model, dataset, mode = combination
    command, row, config = dry_runs[combination], MODELS[model], TRAINING_CONFIGS["standard"]
    run_dir = f"runs/{model}_{dataset}_{mode}_standard"
    expected = {
        line[0]: list(line[1:])
        for line in (
            *flags.LOCAL_LAYERS,
            *flags.architecture(row.full),
            *flags.recipe(row.full_recipe),
            *flags.parallel(row.full_recipe, smoke=False),
            *flags.optimizer(OPTIMIZER),
            *flags.logging(config),
            ("--split", DATASETS[dataset].split),
            ("--seed", "1234"),
            ("--global-batch-size", "256"),
            ("--train-iters", "10000"),
            ("--lr-warmup-iters", "500"),
            ("--bf16",),
            ("--data-path", DATASETS[dataset].sample_path),
            ("--data-cache-path", f"{run_dir}/data_cache"),
            ("--num-workers", "2"),
            ("--tokenizer-type", "HuggingFaceTokenizer"),
            ("--tokenizer-model", row.tokenizer),
            ("--log-throughput",),
            ("--exit-signal-handler",),
            ("--tensorboard-dir", f"{run_dir}/tensorboard"),
            ("--save", f"{run_dir}/checkpoints"),
            ("--load", f"{run_dir}/checkpoints"),
            ("--save-interval", "2500"),
            ("--ckpt-format", "torch"),
        )
    }
    assert command.flags == expected
    assert command.exec_options == ["--run-dir", run_dir, "--mode", mode, "--attention", "auto"]
    assert command.launcher[1:] == (
        ["-m", "torch.distributed.run", "--nproc-per-node", "8", "--standalone", "-m", "quantctl.pretrain"]
    )
    assert command.environment == {"CUDA_DEVICE_MAX_CONNECTIONS": "1"}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("config", TRAINING_CONFIGS)
def test_every_flag_exists_in_every_release(model, config, bash):
    done = bash(path_of(model, "dolma", "bf16"), "checkpoints", DRY_RUN="1", TRAINING_CONFIG=config)
    for flag, values in Command.of(words(done.stdout)).flags.items():
        assert flag in EVERY_RELEASE
        assert EVERY_RELEASE[flag] is None or set(values) <= set(EVERY_RELEASE[flag])


@pytest.mark.parametrize("model", [name for name, row in MODELS.items() if row.full.moe is None])
@pytest.mark.parametrize("config", TRAINING_CONFIGS)
def test_the_embedded_trainer_takes_the_flags_of_dense_models(model, config, bash):
    done = bash(path_of(model, "dolma", "bf16"), DRY_RUN="1", TRAINING_CONFIG=config)
    argv = words(done.stdout)
    args = parse(argv[argv.index("--transformer-impl") :])
    assert args.train_iters == TRAINING_CONFIGS[config].train_iters


def test_the_printed_command_is_the_one_that_runs(bash, dataset, recorder, tmp_path):
    # small enough for any machine to train
    tiny = ["--num-layers", "1", "--vocab-size", "128"]
    trailing = [*tiny, "--lr", "1e-3 $(id) `id` \\"]
    arguments = ["check points", 'it\'s "tb"', "./tokenizer; touch x", str(dataset), "fp16", *trailing]
    (bash.cwd / "tokenizer; touch x").mkdir()
    settings = {"QUANTCTL": str(recorder), "RUN_DIR": "a b/*/ü", "SEED": "7", "TRAIN_ITERS": "100"}
    dry = bash(SCRIPT, *arguments, DRY_RUN="1", **settings)
    real = bash(SCRIPT, *arguments, **settings)
    assert real.returncode == 7, real.stderr
    ran = (tmp_path / "argv").read_bytes().decode().split("\0")[:-1]
    printed = words(dry.stdout)
    assert printed[printed.index(str(recorder)) + 1 :] == ran
    # and bash itself, given the printed text, does the same
    (tmp_path / "argv").unlink()
    pasted = subprocess.run(["bash", "-c", dry.stdout], cwd=bash.cwd, capture_output=True, text=True)
    assert pasted.returncode == 7, pasted.stderr
    assert (tmp_path / "argv").read_bytes().decode().split("\0")[:-1] == ran
    flags_ = {word: ran[i + 1] for i, word in enumerate(ran[:-1]) if word.startswith("--")}
    assert flags_["--run-dir"] == "a b/*/ü"
    assert flags_["--save"] == "check points"
    assert flags_["--tensorboard-dir"] == 'it\'s "tb"'
    assert flags_["--tokenizer-model"] == "./tokenizer; touch x"
    assert flags_["--data-path"] == str(dataset)
    assert ran[-len(trailing) :] == trailing
    assert flags_["--lr-warmup-iters"] == "5"
    assert "--fp16" in ran
    assert not {"--bf16"} & set(ran)


ENVIRONMENT_AND_ARGUMENTS = [
    # id, arguments, environment, flag, values
    ("default", [], {}, "--bf16", []),
    ("environment", [], {"DTYPE": "fp16"}, "--fp16", []),
    ("argument_wins", ["", "", "", "", "fp16"], {"DTYPE": "fp32"}, "--fp16", []),
    ("empty_argument_is_none", ["", "", "", "", ""], {"DTYPE": "fp16"}, "--fp16", []),
    ("checkpoint", [], {"CHECKPOINT_PATH": "c d"}, "--save", ["c d"]),
    ("tensorboard", ["", "t b"], {}, "--tensorboard-dir", ["t b"]),
    ("run_dir", [], {"RUN_DIR": "r"}, "--tensorboard-dir", ["r/tensorboard"]),
    ("smoke_in_bf16", [], {"DTYPE": "bf16", "TRAINING_CONFIG": "smoke"}, "--bf16", []),
    ("seed", [], {"SEED": "5"}, "--seed", ["5"]),
    ("iterations", [], {"TRAIN_ITERS": "5"}, "--train-iters", ["5"]),
    ("warmup_stays_below_iterations", [], {"TRAIN_ITERS": "5"}, "--lr-warmup-iters", ["0"]),
    ("trailing_after_dashes", ["--", "--timing-log-level", "2"], {}, "--timing-log-level", ["2"]),
    ("trailing_after_two", ["c", "t", "--", "--timing-log-level", "2"], {}, "--timing-log-level", ["2"]),
    ("trailing_after_five", ["", "", "", "", "", "--timing-log-level", "2"], {}, "--timing-log-level", ["2"]),
    ("own_blend", ["--", "--data-path", "0.3", "a", "0.7", "b"], {}, "--data-path", ["0.3", "a", "0.7", "b"]),
    ("own_tokenizer", ["--", "--tokenizer-type", "NullTokenizer"], {}, "--tokenizer-type", ["NullTokenizer"]),
]


@pytest.mark.parametrize(
    ("arguments", "environment", "flag", "values"),
    [c[1:] for c in ENVIRONMENT_AND_ARGUMENTS],
    ids=[c[0] for c in ENVIRONMENT_AND_ARGUMENTS],
)
def test_argument_then_environment_then_default(arguments, environment, flag, values, bash):
    done = bash(SCRIPT, *arguments, DRY_RUN="1", **environment)
    assert done.returncode == 0, done.stderr
    assert Command.of(words(done.stdout)).flags[flag] == values


def test_fp32_is_no_flag(bash):
    given = Command.of(words(bash(SCRIPT, DRY_RUN="1", DTYPE="fp32").stdout)).flags
    assert not {"--bf16", "--fp16", "--fp32"} & given.keys()


def test_mock_data_replaces_the_dataset(bash):
    done = bash(SCRIPT, "--", "--mock-data", "--tokenizer-type", "NullTokenizer", DRY_RUN="1")
    given = Command.of(words(done.stdout)).flags
    assert "--mock-data" in given
    assert not {"--data-path", "--tokenizer-model"} & given.keys()
    assert done.stderr == ""


def test_smoke_trains_on_prose_that_is_here(bash):
    done = bash(SCRIPT, DRY_RUN="1", TRAINING_CONFIG="smoke")
    command = Command.of(words(done.stdout))
    (path,) = command.flags["--data-path"]
    assert [str(Path(path).parent)] == command.flags["--tokenizer-model"]
    assert command.flags["--split"] == ["950,50,0"]
    assert not {"--bf16", "--fp16"} & command.flags.keys()
    assert command.environment["OMP_NUM_THREADS"] == "1"
    assert "--save" not in command.flags
    assert command.launcher[1:] == ["-m", "quantctl.pretrain"]
    assert "Python documentation stands in for English Wikipedia" in done.stderr


LAUNCHES = [
    # id, environment, launcher after python
    ("one_process", {"GPUS_PER_NODE": "1"}, "-m quantctl.pretrain"),
    ("one_node", {}, "-m torch.distributed.run --nproc-per-node 8 --standalone -m quantctl.pretrain"),
    (
        "own_port",
        {"MASTER_PORT": "6001"},
        "-m torch.distributed.run --nproc-per-node 8 --master-addr localhost --master-port 6001 -m quantctl.pretrain",
    ),
    (
        "two_nodes",
        {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "host", "GPUS_PER_NODE": "4"},
        "-m torch.distributed.run --nproc-per-node 4 --nnodes 2 --node-rank 1 --master-addr host --master-port 29500 "
        "-m quantctl.pretrain",
    ),
]


@pytest.mark.parametrize(("environment", "launcher"), [c[1:] for c in LAUNCHES], ids=[c[0] for c in LAUNCHES])
def test_launcher(environment, launcher, bash):
    command = Command.of(words(bash(SCRIPT, DRY_RUN="1", **environment).stdout))
    assert command.launcher[1:] == launcher.split()


@pytest.mark.parametrize("mode", ["te-nvfp4", "FA_mxfp4", "linear=mxfp8 qk=mxfp4"])
def test_another_mode_in_the_place_of_the_scripts(mode, bash):
    given = words(bash(SCRIPT, DRY_RUN="1", TRAINING_CONFIG="smoke", MODE=mode).stdout)
    assert [given[place + 1] for place, word in enumerate(given) if word == "--mode"] == [mode]
    name = "llama32-1b_wikipedia"
    assert given[given.index("--run-dir") + 1] == f"runs/{name}_{file_name(mode)}_smoke"


def test_a_checkout_brings_its_own_trainer(bash, tmp_path):
    tree = tmp_path / "Megatron LM"
    (tree / "megatron" / "core").mkdir(parents=True)
    (tree / "pretrain_gpt.py").touch()
    done = bash(SCRIPT, DRY_RUN="1", TRAINING_CONFIG="smoke", MEGATRON_LM_PATH=str(tree))
    command = Command.of(words(done.stdout))
    assert command.environment["MEGATRON_LM_PATH"] == str(tree)
    assert command.launcher[1:] == (
        ["-m", "torch.distributed.run", "--nproc-per-node", "1", "--standalone", str(tree / "pretrain_gpt.py")]
    )


REFUSALS = [
    # id, arguments, environment, what the message names
    ("config", [], {"TRAINING_CONFIG": "quick"}, "unknown TRAINING_CONFIG 'quick'"),
    ("dtype", ["", "", "", "", "fp8"], {}, "unknown DTYPE 'fp8'"),
    ("no_data", [], {"TOKENIZER": "t"}, "no DATA_PATH"),
    ("missing_data", ["", "", "t", "no/such/data"], {}, "there is no no/such/data.bin"),
    ("missing_data_in_smoke", ["", "", "t", "no/such/data"], {"TRAINING_CONFIG": "smoke"}, "no/such/data.bin"),
    ("smoke_data_without_tokenizer", ["", "", "", "DATA"], {"TRAINING_CONFIG": "smoke"}, "no TOKENIZER"),
    ("no_tokenizer", ["", "", "", "DATA"], {}, "no TOKENIZER"),
    ("missing_tokenizer", ["", "", "./nowhere", "DATA"], {}, "TOKENIZER=./nowhere does not exist"),
    ("flag_first", ["--lr", "1"], {}, "argument 1 is the flag --lr"),
    ("iterations", [], {"TRAIN_ITERS": "a[$(touch x)]"}, "TRAIN_ITERS=a[$(touch x)] is not a positive number"),
    ("gpus", [], {"GPUS_PER_NODE": "0"}, "GPUS_PER_NODE=0 is not a positive number"),
    ("platform", ["", "", "t", "DATA"], {"PLATFORM": "tpu"}, "unknown PLATFORM 'tpu'"),
    ("mode", [], {"MODE": "te-nvpf4"}, "unknown mode 'te-nvpf4'"),
    ("cann", ["", "", "t", "DATA"], {"PLATFORM": "npu", "SET_ENV": "/nowhere/set_env.sh"}, "SET_ENV=/nowhere"),
    ("dry_run", [], {"DRY_RUN": "yes"}, "DRY_RUN=yes"),
    ("tree", [], {"MEGATRON_LM_PATH": "/nowhere"}, "/nowhere holds no megatron/core"),
    ("quantctl", [], {"QUANTCTL": "/nowhere/quantctl"}, "QUANTCTL is not an executable"),
    ("python", [], {"PYTHON": "/nowhere/python"}, "PYTHON=/nowhere/python is not an executable"),
]


@pytest.mark.parametrize(
    ("arguments", "environment", "message"), [c[1:] for c in REFUSALS], ids=[c[0] for c in REFUSALS]
)
def test_refused_with_one_error_and_nothing_made(arguments, environment, message, bash, dataset):
    arguments = [str(dataset) if argument == "DATA" else argument for argument in arguments]
    done = bash(SCRIPT, *arguments, **environment)
    assert (done.returncode, done.stdout) == (2, "")
    error, *hint = done.stderr.splitlines()
    assert message in error
    assert error.startswith(f"{SCRIPT.name}: ")
    assert len(hint) <= 1
    assert list(bash.cwd.iterdir()) == []


def test_no_quantctl_anywhere(bash, tmp_path):
    script = shutil.copy(SCRIPT, tmp_path)
    done = bash(script, PATH="/usr/bin:/bin")
    assert (done.returncode, done.stdout) == (2, "")
    assert "quantctl was not found on PATH" in done.stderr


def test_the_repositorys_environment_is_found_without_activation(bash, tmp_path):
    """A checkout with its .venv at a path with spaces, called from elsewhere."""
    root = tmp_path / "my 'repo'"
    script = root / "script" / "llama32-1b" / SCRIPT.name
    script.parent.mkdir(parents=True)
    shutil.copy(SCRIPT, script)
    tools = root / ".venv" / "bin"
    tools.mkdir(parents=True)
    for name in ("quantctl", "python"):
        (tools / name).write_text('#!/bin/sh\nprintf "%s\\n" "\'$0\'" "\'$QUANTCTL\'"\n')
        (tools / name).chmod(0o755)
    printed = bash(script, DRY_RUN="1", PATH="/usr/bin:/bin").stdout.splitlines()
    assert printed == [f"'{tools / 'quantctl'}'"] * 2


def test_the_python_that_trains_is_the_one_beside_quantctl(dry_runs):
    beside = str(Path(sys.executable).with_name("python"))
    assert {command.launcher[0] for command in dry_runs.values()} == {beside}


def test_a_copy_in_slurms_spool_finds_the_repository_it_was_submitted_from(bash, tmp_path):
    spool = shutil.copy(SCRIPT, tmp_path)
    tools = tmp_path / "repository" / ".venv" / "bin"
    tools.mkdir(parents=True)
    (tools / "quantctl").write_text('#!/bin/sh\necho "$0"\n')
    (tools / "quantctl").chmod(0o755)
    done = bash(spool, DRY_RUN="1", PATH="/usr/bin:/bin", SLURM_SUBMIT_DIR=str(tmp_path / "repository"))
    assert done.stdout.strip() == str(tools / "quantctl")


@pytest.fixture
def shows(tmp_path) -> Path:
    """A QUANTCTL whose `exec` shows what CANN's file has set, then its own words."""
    path = tmp_path / "shows" / "quantctl"
    path.parent.mkdir()
    real = Path(sys.executable).with_name("quantctl")
    path.write_text(
        "#!/bin/sh\n"
        f'case "$1" in launch) exec "{real}" "$@" ;; lint) exit 0 ;; esac\n'
        'echo "<${FROM_CANN-}>"\nenv -0 >"$0.env"\nprintf "%s\\n" "$@"\n'
    )
    path.chmod(0o755)
    return path


def test_ascend_npus(bash, dataset, shows, tmp_path):
    """CANN's file is sourced, though it reads variables that are not set; a stock trainer gets MindSpeed's adaptor."""
    (tmp_path / "set_env.sh").write_text('export FROM_CANN="yes$UNSET_VARIABLE"\n')
    settings = {
        "PLATFORM": "npu",
        "SET_ENV": str(tmp_path / "set_env.sh"),
        "HCCL_CONNECT_TIMEOUT": "1200",
        "QUANTCTL": str(shows),
        "MEGATRON_LM_PATH": str(tmp_path / "tree"),
    }
    (tmp_path / "tree" / "megatron" / "core").mkdir(parents=True)
    (tmp_path / "tree" / "pretrain_gpt.py").touch()
    first, *given = bash(SCRIPT, "", "", "tokenizer", str(dataset), **settings).stdout.splitlines()
    assert first == "<yes>"
    seen = dict(entry.split("=", 1) for entry in Path(f"{shows}.env").read_text().split("\0") if entry)
    wanted = {
        "CUDA_DEVICE_MAX_CONNECTIONS": "1",
        "PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True",
        "HCCL_CONNECT_TIMEOUT": "1200",
        "HCCL_EXEC_TIMEOUT": "7200",
        "TASK_QUEUE_ENABLE": "2",
        "CPU_AFFINITY_CONF": "1",
        "NPUS_PER_NODE": "8",
        "QUANTCTL_KERNELS": "reference",
        "MEGATRON_LM_PATH": str(tmp_path / "tree"),
    }
    assert {name: seen.get(name) for name in wanted} == wanted
    trainer = str(tmp_path / "tree" / "pretrain_gpt.py")
    at = given.index("--transformer-impl")
    assert given[at - 3 : at] == ["-m", "quantctl.launch.mindspeed", trainer]
    # MindSpeed-LLM's trainer imports the adaptor itself
    (tmp_path / "tree" / "mindspeed_llm").mkdir()
    assert "launch.mindspeed" not in bash(SCRIPT, "", "", "tokenizer", str(dataset), **settings).stdout


ROUGH = """
[[ $# == 1 && -z "$1" ]] && export FROM_CANN="$WHICH$UNSET_VARIABLE"
false | true
false
"""
CANN = {
    # files in the home directory, environment, which of them is sourced
    "the newer folder": (["cann", "ascend-toolkit"], {}, "cann"),
    "the older folder": (["ascend-toolkit"], {}, "ascend-toolkit"),
    "one of one's own": (["cann", "mine"], {"SET_ENV": "HOME/Ascend/mine/set_env.sh"}, "mine"),
    "sourced already": (["cann"], {"ASCEND_HOME_PATH": "/cann"}, ""),
    "one's own, again": (["mine"], {"ASCEND_HOME_PATH": "/", "SET_ENV": "HOME/Ascend/mine/set_env.sh"}, "mine"),
}


@pytest.mark.parametrize(("folders", "environment", "sourced"), CANN.values(), ids=CANN)
def test_canns_file_is_found_and_may_be_written_carelessly(
    bash, dataset, shows, tmp_path, folders, environment, sourced
):
    for folder in folders:
        (tmp_path / "Ascend" / folder).mkdir(parents=True)
        (tmp_path / "Ascend" / folder / "set_env.sh").write_text(f"WHICH={folder}{ROUGH}")
    settings = {"PLATFORM": "npu", "HOME": str(tmp_path), "QUANTCTL": str(shows)}
    given = {name: value.replace("HOME", str(tmp_path)) for name, value in environment.items()}
    done = bash(SCRIPT, "", "", "tokenizer", str(dataset), **settings, **given)
    assert (done.returncode, done.stdout.splitlines()[:1]) == (0, [f"<{sourced}>"]), done.stderr


@pytest.mark.parametrize(("name", "seen"), [("slurm_script", ""), ("mine.sh", "0")])
def test_sbatchs_copy_forgets_the_step_it_was_submitted_in(bash, tmp_path, name, seen):
    (tmp_path / "quantctl").write_text('#!/bin/sh\necho "<${SLURM_STEP_ID-}${SLURM_STEPID-}>"\n')
    (tmp_path / "quantctl").chmod(0o755)
    script = shutil.copy(SCRIPT, tmp_path / name)
    done = bash(script, DRY_RUN="1", QUANTCTL=str(tmp_path / "quantctl"), SLURM_STEP_ID="0", SLURM_STEPID="0")
    assert done.stdout == f"<{seen * 2}>\n"
