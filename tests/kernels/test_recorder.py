"""Statistics of a training: recorded at the chosen steps, equal to a direct computation, free when off."""

from __future__ import annotations

import json
import os
import sys
import types
from pathlib import Path

import pytest
from warm_python import python

from quantctl.errors import QuantctlError
from quantctl.kernels.measure import steps
from quantctl.kernels.measure.wanted import parse_wanted

TRAINING = """
import json, sys
import torch
from quantctl.kernels.linear import quantized_linear
from quantctl.kernels.measure.statistics import measure

SPEC = "mxfp4"


class Fc(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(48, 64))

    def forward(self, x):
        return quantized_linear(x, self.weight, None, SPEC)


class TransformerLayer(torch.nn.Module):
    def __init__(self, number):
        super().__init__()
        self.layer_number, self.fc = number, Fc()

    def forward(self, x):
        return self.fc(x)


torch.manual_seed(0)
layers = [TransformerLayer(number) for number in (1, 2)]
optimizer = torch.optim.SGD([p for layer in layers for p in layer.parameters()], lr=0.1)
expected = {}
for step in range(1, 5):
    optimizer.zero_grad()
    for layer in layers:  # an evaluation is no part of a step
        layer.eval()(torch.randn(4, 8, 64))
        layer.train()
    for micro_batch in range(2):
        for layer in layers:
            x = torch.randn(4, 8, 64)
            dy = torch.randn(4, 8, 48)
            if micro_batch == 0:
                flat_x, flat_dy, w = x.view(32, 64), dy.view(32, 48), layer.fc.weight.detach()
                operands = {"fprop input": (flat_x, 1), "fprop weight": (w, 1), "wgrad input": (flat_x, 0)}
                operands |= {"wgrad gradient": (flat_dy, 0), "dgrad gradient": (flat_dy, 1), "dgrad weight": (w, 0)}
                for name, (tensor, axis) in operands.items():
                    expected[f"{step} {layer.layer_number} {name}"] = measure(tensor, SPEC, axis).read()
            x.requires_grad_()
            layer(x).backward(dy)
    optimizer.step()
json.dump(expected, sys.stdout)
"""


def train(run_dir: Path, stats: str | None) -> dict:
    variables = {"QUANTCTL_RUN_DIR": str(run_dir)} | ({} if stats is None else {"QUANTCTL_STATS": stats})
    done = python("-c", TRAINING, env={**os.environ, **variables})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def recorded(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "stats" / "rank0.jsonl").read_text().splitlines()]


def test_recorded_values_equal_a_direct_computation(tmp_path: Path) -> None:
    expected = train(tmp_path, "every=2")
    rows = recorded(tmp_path)
    assert len(rows) == 2 * 2 * 6  # steps 2 and 4, two layers, six operands; the first micro batch of each
    for row in rows:
        assert (row.pop("site"), row.pop("module"), row.pop("spec")) == ("linear", "fc", "mxfp4")
        key = f"{row.pop('iteration')} {row.pop('layer')} {row.pop('product')} {row.pop('operand')}"
        assert row == expected.pop(key)
    assert {key.split()[0] for key in expected} == {"1", "3"}


def test_tensorboard_holds_the_same(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path, "every=4,layers=2")
    events = EventAccumulator(str(tmp_path / "stats"))
    events.Reload()
    rows = recorded(tmp_path)
    assert {(row["iteration"], row["layer"]) for row in rows} == {(4, 2)}
    for row in rows:
        (event,) = events.Scalars(f"sqnr/linear/layer 2/fc {row['product']} {row['operand']}")
        assert (event.step, event.value) == (4, pytest.approx(row["sqnr"], rel=2**-23))


def test_a_training_goes_on_without_its_statistics(tmp_path: Path) -> None:
    (tmp_path / "stats").write_text("a file in the folder's place")
    assert train(tmp_path, "every=4")


@pytest.mark.parametrize("stats", [None, "every=2,sites=qk", "every=9"])
def test_nothing_is_recorded_unasked(stats: str | None, tmp_path: Path) -> None:
    train(tmp_path, stats)
    assert not (tmp_path / "stats").exists()


FLAGS = (
    "--num-layers 2 --hidden-size 32 --ffn-hidden-size 64 --num-attention-heads 4 --seq-length 32 "
    "--max-position-embeddings 32 --position-embedding-type rope --normalization RMSNorm --swiglu "
    "--disable-bias-linear --attention-dropout 0 --hidden-dropout 0 --transformer-impl local "
    "--no-persist-layer-norm --no-gradient-accumulation-fusion --no-masked-softmax-fusion --no-rope-fusion "
    "--micro-batch-size 2 --global-batch-size 4 --train-iters 3 --lr 0.01 --eval-iters 0 "
    "--mock-data --tokenizer-type NullTokenizer --vocab-size 255"
)


def test_a_real_training(quantctl, tmp_path: Path) -> None:
    flags = FLAGS.split()
    command = ["exec", "--linear", "mxfp8", "--qk", "hifp8", "--stats", "every=3", "--run-dir", tmp_path / "run", "--"]
    done = quantctl(*command, sys.executable, "-m", "quantctl.pretrain", *flags)
    assert done.status == 0, done.err
    rows = recorded(tmp_path / "run")
    assert {row["iteration"] for row in rows} == {3}
    modules = {(row["site"], row["layer"], row["module"]) for row in rows}
    names = ("self_attention.linear_qkv", "self_attention.linear_proj", "mlp.linear_fc1", "mlp.linear_fc2")
    assert modules == {("linear", layer, name) for layer in (1, 2) for name in names} | {
        ("qk", layer, "self_attention.core_attention") for layer in (1, 2)
    }


WRONG = {
    "often": "'often' is no option",
    "every=0": "from 1 up",
    "every=x": "which steps",
    "sites=qk": "which steps",
    "every=2,layers=a": "which layers",
    "every=2,sites=mlp": "sites are linear+lm_head+qk+pv",
}


@pytest.mark.parametrize("text", WRONG)
def test_wrong_words_are_refused(text: str) -> None:
    with pytest.raises(QuantctlError) as error:
        parse_wanted(text)
    assert WRONG[text] in str(error.value)


def test_exec_refuses_before_it_starts(quantctl, tmp_path: Path) -> None:
    done = quantctl("exec", "--linear", "mxfp8", "--stats", "often", "--run-dir", tmp_path / "run", "--", "true")
    assert done.status == 2
    assert not (tmp_path / "run").exists()


def test_a_run_that_megatrons_trainer_resumed_goes_on_counting(monkeypatch) -> None:
    arguments = types.SimpleNamespace(curr_iteration=499)  # that the step under way begins with
    monkeypatch.setitem(sys.modules, "megatron.training.global_vars", types.SimpleNamespace(_GLOBAL_ARGS=arguments))
    assert steps.current() == 500


EXPERTS = """
import sys
import torch
from quantctl.kernels.products.grouped import grouped_linear
from quantctl.kernels.linear import quantized_linear

WAY, SPEC, COUNTS = sys.argv[1], sys.argv[2], [3, 0, 5]


class Fc(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(48, 64))

    def forward(self, x):
        return quantized_linear(x, self.weight, None, SPEC)


class TransformerLayer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer_number, self.experts = 1, torch.nn.ModuleList(Fc() for _ in COUNTS)

    def forward(self, x):
        if WAY == "loop":
            parts = zip(self.experts, x.split(COUNTS))
            return torch.cat([expert(part) for expert, part in parts if len(part)])
        layers = list(self.experts) if WAY == "together" else None
        return grouped_linear(x, [expert.weight for expert in self.experts], COUNTS, SPEC, layers=layers)


torch.manual_seed(0)
layer = TransformerLayer()
optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
for step in range(2):
    layer(torch.randn(8, 64, requires_grad=True)).backward(torch.randn(8, 48))
    layer.eval()
    layer(torch.randn(8, 64))
    layer.train()
    optimizer.step()
"""


def _experts(run_dir: Path, way: str, spec: str) -> dict[str, dict]:
    variables = {"QUANTCTL_RUN_DIR": str(run_dir), "QUANTCTL_STATS": "every=1"}
    done = python("-c", EXPERTS, way, spec, env={**os.environ, **variables})
    assert done.returncode == 0, done.stderr
    return {f"{r['iteration']} {r.pop('module')} {r['product']} {r['operand']}": r for r in recorded(run_dir)}


@pytest.mark.parametrize("spec", ["mxfp4", "nvfp4:bwd=dequantized"])
def test_experts_that_are_computed_together_have_the_rows_of_the_loop(spec, tmp_path) -> None:
    loop = _experts(tmp_path / "loop", "loop", spec)
    assert {key.split()[1] for key in loop} == {"experts.0", "experts.2"}
    assert _experts(tmp_path / "together", "together", spec) == loop


def test_experts_of_unknown_layers_have_rows_by_number(tmp_path) -> None:
    loop, numbered = (_experts(tmp_path / way, way, "mxfp4") for way in ("loop", "numbered"))
    names = {"experts.0": "[0]", "experts.2": "[2]"}
    assert numbered == {" ".join(names.get(word, word) for word in key.split(" ")): row for key, row in loop.items()}
