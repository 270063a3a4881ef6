"""What a machine without a GPU is asked to train: what fits runs, what does not is refused before anything starts."""

from __future__ import annotations

import pytest

from quantctl.errors import QuantctlError
from quantctl.launch import machine
from quantctl.script import flags
from quantctl.script.models import MODELS
from quantctl.script.parameters import parameters

EMBEDDED = ["-m", "quantctl.pretrain"]
CHECKOUT = ["tree/pretrain_gpt.py"]
HIDDEN = {"CUDA_VISIBLE_DEVICES": ""}
MOCK = ["--mock-data", "--tokenizer-type", "NullTokenizer"]


def words(model: str, smoke: bool = False) -> list[str]:
    row = MODELS[model]
    arch, recipe = (row.smoke, row.smoke_recipe) if smoke else (row.full, row.full_recipe)
    return [word for line in (*flags.architecture(arch), *flags.parallel(recipe, smoke)) for word in line]


@pytest.mark.parametrize("model", MODELS)
def test_the_weights_of_a_rank_are_counted_from_below(model):
    """Norms, routers, MLA and shared experts are left out, so that nothing is refused that would fit."""
    row = MODELS[model]
    shares = row.full_recipe.tensor_parallel * row.full_recipe.expert_parallel
    counted, whole = machine.weights(words(model)), parameters(row.full)
    assert 0.8 * whole / shares < counted <= whole
    assert machine.weights([*words(model), "--num-layers", "1"]) < counted
    assert machine.weights(words(model, smoke=True)) < 1e7
    assert machine.weights(["--train-iters", "10"]) == 0


TOO_MUCH = ([*EMBEDDED, *words("llama32-1b")], 8)
PLACES = {
    # trainer, processes, platform, environment, devices; what is said, None where it runs
    "no GPU": (*TOO_MUCH, "cuda", {}, [], "no GPU that a run could use, and 8 processes with 1.2"),
    "a GPU": (*TOO_MUCH, "cuda", {}, ["nvidia0"], None),
    "a GPU that is hidden": (*TOO_MUCH, "cuda", HIDDEN, ["nvidia0"], "no GPU that a run could use"),
    "a CPU that is asked for": (*TOO_MUCH, "cpu", {}, ["nvidia0"], "PLATFORM=cpu hides the GPUs, and 8 processes"),
    "NPUs": (*TOO_MUCH, "npu", {}, [], None),
    "a reduced model": ([*EMBEDDED, *words("llama32-1b", smoke=True)], 1, "cuda", {}, [], None),
    "a checkout": ([*CHECKOUT, *words("llama32-1b", smoke=True)], 1, "cuda", {}, [], "pretrain_gpt.py needs CUDA"),
    "a checkout on a GPU": ([*CHECKOUT, *words("llama31-8b")], 8, "cuda", {}, ["nvidia3"], None),
    "a checkout on a CPU": (CHECKOUT, 1, "cpu", {}, ["nvidia0"], "pretrain_gpt.py needs CUDA"),
    "an AMD GPU": (*TOO_MUCH, "cuda", {}, ["kfd"], None),
}


@pytest.mark.parametrize(
    ("trainer", "processes", "platform", "environment", "devices", "said"), PLACES.values(), ids=PLACES
)
def test_what_a_machine_can_train(monkeypatch, tmp_path, trainer, processes, platform, environment, devices, said):
    for name in devices:
        (tmp_path / name).touch()
    monkeypatch.setattr(machine, "_WHERE", tmp_path)
    monkeypatch.setattr(machine, "memory", lambda: 64 * 10**9)
    if said is None:
        machine.require(trainer, platform, processes, environment)
        return
    with pytest.raises(QuantctlError, match=said) as refused:
        machine.require(trainer, platform, processes, environment, "quantctl run SMOKE")
    assert "quantctl run SMOKE" in refused.value.hint


NO_GPU = {"CUDA_VISIBLE_DEVICES": "", "DATA_PATH": "d", "TOKENIZER": "t"}
RUN = ["run", "--model", "llama31-8b", "--dataset", "dolma", "--quantization", "bf16"]
SWEEP = ["sweep", "--model", "llama31-8b", "--dataset", "dolma", "--mode", "bf16"]


@pytest.mark.parametrize("command", [RUN, SWEEP], ids=["run", "sweep"])
def test_the_default_config_is_refused_with_a_command_that_works(quantctl, tmp_path, command):
    """64 processes of 64 GB: more than any machine has."""
    for ending in ("bin", "idx"):
        (tmp_path / f"d.{ending}").touch()
    done = quantctl(*command, cwd=tmp_path, env=NO_GPU | {"GPUS_PER_NODE": "64"})
    assert (done.status, done.out) == (2, "")
    assert "64 processes with 4.0" in done.err
    assert f"quantctl {command[0]} --model llama31-8b --dataset dolma" in done.err
    assert "--training-config smoke" in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.bin", "d.idx"]


def test_a_checkout_that_compiles_kernels_needs_nvcc(monkeypatch, tmp_path):
    program = tmp_path / "tree/pretrain_gpt.py"
    (tmp_path / "tree/megatron/training").mkdir(parents=True)
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(machine, "_WHERE", tmp_path)
    monkeypatch.setattr(machine, "_TOOLKIT", tmp_path / "nowhere")
    (tmp_path / "tree/megatron/training/initialize.py").write_text("def compile():\n    fused_kernels.load(args)\n")

    def start(**environment: str) -> None:
        machine.require([str(program)], "cuda", 8, {"PATH": "/nowhere", **environment})

    with pytest.raises(QuantctlError, match=r"pretrain_gpt\.py compiles kernels .* nvcc is not here"):
        start()
    compiler = tmp_path / "cuda/bin/nvcc"
    compiler.parent.mkdir(parents=True)
    compiler.touch(mode=0o755)
    start(CUDA_HOME=str(tmp_path / "cuda"))
    start(PATH=str(compiler.parent))
    (tmp_path / "tree/megatron/training/initialize.py").write_text("")
    start()
