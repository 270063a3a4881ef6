import subprocess
import sys

import pytest

from quantctl.errors import QuantctlError
from quantctl.pretrain.arguments import parse
from quantctl.pretrain.flags import FLAGS

GOOD = (
    "--num-layers 2 --hidden-size 96 --num-attention-heads 4 --seq-length 16 --max-position-embeddings 32 "
    "--micro-batch-size 2 --train-iters 10 --lr 0.01 --tokenizer-type NullTokenizer --vocab-size 255 --mock-data"
)

REFUSALS = {
    "unknown": ("--fused-everything", "--fused-everything is not a flag", "pretrain_gpt.py"),
    "typo": ("--num-layer 2", "--num-layer is not a flag", "did you mean --num-layers?"),
    "grouped GEMM": ("--moe-grouped-gemm", "--moe-grouped-gemm is refused", "bypasses the linear selector"),
    "multi-token prediction": ("--mtp-num-layers 1", "--mtp-num-layers is refused", "pretrain_gpt.py"),
    "MLA with groups": ("--multi-latent-attention --group-query-attention", "--group-query-attention", "leave it out"),
    "recompute": ("--recompute-granularity full", "--recompute-granularity full with --recompute-method None", "both"),
    "experts over ranks": (
        "--num-experts 6 --expert-model-parallel-size 4",
        "--num-experts 6 is not divisible",
        "change",
    ),
    "ranks without experts": ("--expert-model-parallel-size 4", "without --num-experts", "no experts to share"),
    "too many experts a token": (
        "--num-experts 4 --moe-router-topk 6",
        "--moe-router-topk 6 of --num-experts 4",
        "fewer",
    ),
    "layers with experts": ("--num-experts 4 --moe-layer-freq [0]+[1]*2", "does not name --num-layers 2", "0 or 1 for"),
    "no layer list": ("--num-experts 4 --moe-layer-freq sum([1])", "'sum([1])' is neither a number", "--help"),
    "experts in tensor parallel": (
        "--num-experts 4 --tensor-model-parallel-size 2",
        "--num-experts with --tensor-model-parallel-size above 1 and no --sequence-parallel",
        "pass --sequence-parallel",
    ),
    "sequence over ranks": (
        "--tensor-model-parallel-size 4 --sequence-parallel --seq-length 18",
        "--seq-length 18 is not divisible by --tensor-model-parallel-size 4",
        "change",
    ),
    "fp16": ("--fp16", "--fp16 is refused", "dynamic loss scaling"),
    "fp8": ("--fp8-format hybrid", "--fp8-format is refused", "quantctl's selectors"),
    "transformer engine": (
        "--transformer-impl transformer_engine",
        "--transformer-impl transformer_engine: the embedded trainer runs the local layers only",
        "Megatron-LM's own pretrain_gpt.py builds Transformer Engine's layers too",
    ),
    "pipeline": ("--pipeline-model-parallel-size 2", "--pipeline-model-parallel-size", "--help"),
    "no number": ("--lr fast", "--lr", "--help"),
    "zero": ("--train-iters 0", "--train-iters is 0", "from 1 up"),
    "batch": ("--global-batch-size 3", "--global-batch-size 3 is not divisible by --micro-batch-size 2", "change"),
    "groups": ("--group-query-attention --num-query-groups 3", "--num-attention-heads 4 is not divisible", "change"),
    "long sequence": ("--seq-length 64", "--max-position-embeddings 32 is below --seq-length 64", "raise it"),
    "warmup": ("--lr-warmup-iters 10", "--lr-warmup-iters 10 is not below --lr-decay-iters 10", "shorten"),
    "min lr": ("--min-lr 1", "--min-lr 1.0", "change"),
    "split of words": ("--split most,some,few", "--split most,some,few", "990,10,0"),
    "split in four": ("--split 1,2,3,4", "--split 1,2,3,4", "990,10,0"),
    "no training": ("--split 0,1,0", "--split 0,1,0", "990,10,0"),
    "two sources": ("--data-path x", "not both", "quantctl.data.corpus"),
    "save interval": ("--save-interval 5", "--save-interval without --save", "--save DIR"),
}


@pytest.mark.parametrize(("flags", "message", "hint"), REFUSALS.values(), ids=REFUSALS)
def test_refusals_name_the_flag_and_what_to_do(flags: str, message: str, hint: str) -> None:
    with pytest.raises(QuantctlError) as refused:
        parse([*GOOD.split(), *flags.split()])
    assert message in refused.value.message
    assert hint in refused.value.hint


def test_missing_flags_are_named_together() -> None:
    with pytest.raises(QuantctlError, match=r"missing: --num-layers --hidden-size .* --tokenizer-type"):
        parse(["--mock-data"])


@pytest.mark.parametrize(
    ("flags", "dest", "value"),
    [
        ("", "ffn_hidden_size", 384),
        ("--swiglu", "ffn_hidden_size", 256),
        ("--swiglu --hidden-size 128", "ffn_hidden_size", 320),  # 341.3 down to a multiple of 64
        ("", "kv_channels", 24),
        ("", "num_query_groups", 4),
        ("--group-query-attention", "num_query_groups", 1),
        ("", "global_batch_size", 2),
        ("", "lr_decay_iters", 10),
        ("--lr-warmup-fraction 0.2", "lr_warmup_iters", 2.0),
        ("--recompute-activations", "recompute_granularity", "selective"),
        ("--rope-scaling-factor=32", "rope_scaling_factor", 32.0),
        ("--seed 1 --seed 2", "seed", 2),
        ("--num-experts 4", "moe_ffn_hidden_size", 384),
        ("--num-experts 4 --moe-layer-freq ([0]*1+[1]*1)", "moe_layer_freq", [0, 1]),
        ("--num-experts 4 --moe-layer-freq [0,1]", "moe_layer_freq", [0, 1]),
        ("--num-experts 4 --moe-layer-freq 2", "moe_layer_freq", 2),
        ("--sequence-parallel", "sequence_parallel", False),  # there is one rank
    ],
)
def test_derived_values(flags: str, dest: str, value: object) -> None:
    assert getattr(parse([*GOOD.split(), *flags.split()]), dest) == value


def test_every_flag_says_what_it_does() -> None:
    assert all(flag.does for flag in FLAGS.values())
    assert len({flag.dest for flag in FLAGS.values()}) == len(FLAGS)


def test_a_refusal_is_exit_2_without_importing_torch() -> None:
    code = (
        "import runpy, sys; sys.modules['torch'] = None;"
        "runpy.run_module('quantctl.pretrain', run_name='__main__', alter_sys=True)"
    )
    done = subprocess.run([sys.executable, "-c", code, "--moe-grouped-gemm"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "quantctl: --moe-grouped-gemm is refused by the embedded trainer",
        "  up to 0.16.1 it bypasses the linear selector, later it changes nothing here; leave it out",
    ]
