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
    "MLA": ("--multi-latent-attention", "--multi-latent-attention is refused", "dense models only for now"),
    "MoE": ("--num-experts 8", "--num-experts is refused", "dense models only for now"),
    "MoE router": ("--moe-router-topk=2", "--moe-router-topk is refused", "dense models only for now"),
    "fp16": ("--fp16", "--fp16 is refused", "dynamic loss scaling"),
    "sequence parallel": ("--sequence-parallel", "--sequence-parallel is refused", "RMSNorm"),
    "fp8": ("--fp8-format hybrid", "--fp8-format is refused", "quantctl's selectors"),
    "transformer engine": (
        "--transformer-impl transformer_engine",
        "--transformer-impl transformer_engine: the embedded trainer runs the local layers only",
        "selectors act in the local layers and nowhere else",
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
    "two sources": ("--data-path x", "not both", "quantctl.corpus"),
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
        "  dense models only for now; use Megatron-LM's pretrain_gpt.py",
    ]
