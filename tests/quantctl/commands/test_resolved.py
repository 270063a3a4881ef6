"""The resolved table of a command's model: what `check --` shows of it, and who refuses what does not fit it."""

from __future__ import annotations

import json

import pytest

from quantctl.spec.names import unfold

LLAMA = (
    "--transformer-impl local --num-layers 32 --hidden-size 4096 --num-attention-heads 32 --swiglu --train-iters 1000"
)
DEEPSEEK = (
    "--transformer-impl local --num-layers 27 --hidden-size 2048 --num-attention-heads 16 --multi-latent-attention "
    "--q-lora-rank 1536 --num-experts 64 --moe-layer-freq ([0]*1+[1]*26) --moe-shared-expert-intermediate-size 2816 "
    "--mtp-num-layers 1 --train-samples 10000 --global-batch-size 100"
)
TABLES = {
    "plain": (
        LLAMA,
        {"linear": "mxfp8", "qk": "mxfp8:bwd=quantized"},
        """\
linear   all 128 modules: mxfp8
lm_head  output_layer: none
qk       all 32 modules: mxfp8:bwd=quantized
pv       all 32 modules: none
""",
    ),
    "dense": (
        LLAMA,
        {
            "linear": "mxfp4:gradient.round=stochastic; layers 1-2,-2..-1: none; *.linear_fc2: mxfp8; "
            "from 80%: fprop.format=none",
            "lm_head": "mxfp8; evaluation: none",
            "pv": "mxfp8:wgrad.probabilities.format=mxfp4,dgrad.value.source=original; layers 3..90%: none",
        },
        """\
linear   layers 1-2,31-32 mlp.linear_fc1, self_attention.*: none
         layers 1-32 mlp.linear_fc2:
             steps 1-800  all           mxfp8
             from 801     fprop         none
                          dgrad, wgrad  mxfp8
         layers 3-30 mlp.linear_fc1, self_attention.*:
             steps 1-800  input, weight              mxfp4
                          gradient                   mxfp4:round=stochastic
             from 801     fprop                      none
                          gradient                   mxfp4:round=stochastic
                          dgrad.weight, wgrad.input  mxfp4
lm_head  output_layer: mxfp8; evaluation: none
qk       all 32 modules: none
pv       layers 1-2,30-32:
             fprop                  mxfp8
             dgrad, wgrad.gradient  none
             wgrad.probabilities    mxfp4
         layers 3-29: none
""",
    ),
    "experts": (
        DEEPSEEK,
        {
            "linear": "mxfp8; experts: mxfp4; experts.local_experts.0.linear_fc2: nvfp4; "
            "shared_experts: none; mtp: none; until 10 attention: none; layers ..10% mlp: hifp8",
            "qk": "mxfp8; mtp: none",
        },
        """\
linear   layers 1-27 self_attention.*: none; from 11: mxfp8
         layers 1 mlp.*: hifp8
         layers 2-27 mlp.experts.local_experts.*.linear_fc1,
           mlp.experts.local_experts.1-63.linear_fc2: mxfp4
         layers 2-27 mlp.experts.local_experts.0.linear_fc2: nvfp4
         layers 2-27 mlp.shared_experts.*; mtp: none
lm_head  output_layer: none
qk       layers 1-27: mxfp8
         mtp: none
pv       all 28 modules: none
""",
    ),
}


def words(selectors: dict[str, str], flags: str) -> list[str]:
    """A command on a copy of the tree with these selectors."""
    asked = [word for site, text in selectors.items() for word in (f"--{site.replace('_', '-')}", text)]
    return ["quantctl", "exec", *asked, "--", "torchrun", "pretrain_gpt.py", *flags.split()]


@pytest.mark.parametrize("case", TABLES)
def test_the_table(case, called, megatron_tree):
    flags, selectors, table = TABLES[case]
    done = called("--megatron", megatron_tree("0.16.1"), "check", "--", *words(selectors, flags))
    assert done.status == 0, done.err
    assert done.out.endswith(f"\n\n{table}")
    assert all(len(line) <= 80 for line in table.splitlines())


def test_json_says_it_of_every_operand(called, documented, megatron_tree):
    flags, selectors, _ = TABLES["experts"]
    done = called("--json", "--megatron", megatron_tree("0.16.1"), "check", "--", *words(selectors, flags))
    found = json.loads(done.out)
    documented("check", found)
    table = found["command"]["resolved"]
    assert (table["layers"], table["steps"]) == (27, 100)
    attention, dense, *_ = table["sites"]["linear"]
    assert attention["schedule"] == "none; from 11: mxfp8"
    projections = ("kv_down_proj", "kv_up_proj", "proj", "q_down_proj", "q_up_proj")
    assert attention["modules"] == [f"decoder.layers.0-26.self_attention.linear_{name}" for name in projections]
    assert unfold(dense["modules"]) == [f"decoder.layers.0.mlp.linear_fc{number}" for number in (1, 2)]
    assert [span["from"] for span in attention["training"]] == [1, 11]
    operand = {"format": "mxfp8", "source": "original"}
    assert attention["training"][1]["products"] == {
        "fprop": {"input": operand, "weight": operand},
        "dgrad": {"gradient": operand, "weight": operand},
        "wgrad": {"gradient": operand, "input": operand},
    }


MISFITS = {
    # literal of linear -> what is said, and what to do
    "mxfp8; *.linear_fc3: none": (
        "linear: `linear_fc3: none` fits no module of this model",
        "did you mean linear_fc1, linear_fc2? modules are called linear_fc1, linear_fc2, linear_proj, linear_qkv",
    ),
    "mxfp8; experts: none": ("linear: `experts: none` fits no module of this model", "modules are called"),
    "mxfp8; layers 1-2,40: none": (
        "linear: `layers 1-2,40: none`: `layers 40` of a model that has 32",
        "name layers that it has, from 1",
    ),
    "mxfp8; layers -33: none": ("linear: `layers -33: none`: `layers -33` of a model that has 32", "from 1"),
    "mxfp8; from 1001: none": (
        "linear: `from 1001: none` never holds in a training of 1000 steps",
        "name a step that comes",
    ),
}
WRONG = {
    "mxfp8:input.round=stochastic,dgrad.round=away,gradient.round=nearest": "contradicts itself: ",
    "mxfp8:weights.round=stochastic": "unknown scope 'weights'",
    "mxfp8; layers 0: none": "'0' names no layers",
}


@pytest.mark.parametrize("text", MISFITS)
def test_what_a_model_does_not_have_is_refused_before_anything_starts(text, called, megatron_tree, tmp_path):
    tree, command = megatron_tree("0.16.1"), words({"linear": text}, LLAMA)
    message, hint = MISFITS[text]
    looked = called("--megatron", tree, "check", "--", *command)
    assert looked.status == 1
    (problem,) = [line for line in looked.err.splitlines() if line.startswith("problem: ")]
    assert problem.startswith(f"problem: {message}: ")
    assert hint in problem
    run_dir = tmp_path / "run"
    done = called("--megatron", tree, "exec", "--run-dir", run_dir, *command[2:])
    assert done.status == 2
    said, todo = done.err.splitlines()[-2:]
    assert said == f"quantctl: {message}"
    assert hint in todo
    assert not run_dir.exists()


def test_a_launch_is_refused_before_its_nodes_start(quantctl, megatron_tree, tmp_path):
    message, hint = MISFITS[text := "mxfp8; layers 1-2,40: none"]
    variables = {"MEGATRON_LM_PATH": str(megatron_tree("0.16.1")), "SLURM_JOB_ID": "1", "SLURM_NNODES": "2"}
    asked = ("launch", "--run-dir", tmp_path / "run", "--linear", text, "--", "pretrain_gpt.py", *LLAMA.split())
    done = quantctl(*asked, env=variables)
    assert (done.status, done.err) == (2, f"quantctl: {message}\n  {hint}\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_literal_is_refused_as_everywhere(text, called, megatron_tree):
    done = called("--megatron", megatron_tree("0.16.1"), "exec", *words({"linear": text}, LLAMA)[2:])
    assert done.status == 2
    assert WRONG[text] in done.err
