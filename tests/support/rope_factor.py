"""Builds a GPTModel as pretrain_gpt.py does with --rope-scaling-factor 32: prints JSON, where it went to what factor.

    python rope_factor.py

The tree is the one on PYTHONPATH: a Megatron-LM checkout, or a wheel that holds megatron.training. The arguments come
from its own parser, the models from whatever builders it has. Code that asks for the CUDA device gets the CPU.
"""

import contextlib
import importlib
import importlib.util
import json
import math
import sys
import typing
import warnings

import torch
import torch.distributed as dist
import typing_extensions

warnings.filterwarnings("ignore")
torch.cuda.current_device = lambda: torch.device("cpu")
if not hasattr(typing, "override"):  # 0.17 and later say that they need Python 3.12, for this name alone
    typing.override = typing_extensions.override

FACTOR = 32.0
FLAGS = f"""
    --num-layers 1 --hidden-size 256 --num-attention-heads 4 --seq-length 32 --max-position-embeddings 32
    --micro-batch-size 1 --lr 1e-3 --train-iters 1 --normalization RMSNorm --swiglu --disable-bias-linear
    --position-embedding-type rope --use-rope-scaling --rope-scaling-factor {FACTOR} --rotary-base 500000
    --transformer-impl local --no-persist-layer-norm --no-gradient-accumulation-fusion --no-masked-softmax-fusion
    --no-rope-fusion --use-cpu-initialization --mock-data --tokenizer-type NullTokenizer --vocab-size 96
"""


def frequencies(factor, dim=64, base=500000.0, low=1.0, high=4.0, original=8192):
    """Llama 3's scaled rotary frequencies in float64: the long waves slower by `factor`, the middle ones blended."""
    plain = base ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    waves = 2 * math.pi / plain
    blend = ((original / waves - low) / (high - low)).clamp(0, 1)
    return plain * (blend + (1 - blend) / factor)


def factor_of(model):
    """Which of the two factors the model's frequencies have, if any; in float32 they are right to a few roundings."""
    actual = model.rotary_pos_emb.inv_freq.double()
    matches = [f for f in (8.0, FACTOR) if torch.allclose(actual, frequencies(f), rtol=64 * 2.0**-24, atol=0)]
    return matches[0] if len(matches) == 1 else None


def main():
    from megatron.core import parallel_state, tensor_parallel
    from megatron.training import arguments, global_vars

    sys.argv[1:] = FLAGS.split()
    args = arguments.parse_args()
    args.padded_vocab_size = args.vocab_size
    args.params_dtype = torch.float32
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    tensor_parallel.random.get_cuda_rng_tracker().fork = lambda *_: contextlib.nullcontext()
    config = arguments.core_transformer_config_from_args(args)
    found = {}
    utilities = importlib.util.find_spec("megatron.training.argument_utils") and importlib.import_module(
        "megatron.training.argument_utils"
    )
    if hasattr(utilities, "gpt_config_from_args"):
        found["argument_utils"] = utilities.gpt_config_from_args(args, config).rope_scaling_factor
    global_vars.set_args(args)
    if importlib.util.find_spec("gpt_builders"):
        found["gpt_builders"] = factor_of(
            importlib.import_module("gpt_builders").gpt_builder(args, True, True, config=config)
        )
    elif importlib.util.find_spec("pretrain_gpt"):
        found["pretrain_gpt"] = factor_of(importlib.import_module("pretrain_gpt").model_provider())
    print(json.dumps({"tree": sys.modules["megatron.core"].__file__, "factors": found}))


main()
