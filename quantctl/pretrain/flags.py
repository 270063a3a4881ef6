"""The flags of the embedded trainer: a subset of Megatron-LM's, as one table that the parser and the help walk.

Names, types and meanings are Megatron-LM's (megatron/training/arguments.py), defaults too unless `does` says otherwise.
A flag that Megatron-LM needs but that changes nothing here is accepted, and `does` says why it changes nothing.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

WHOLE = "accepted: every data-parallel rank keeps the whole optimizer, and reduces once a step"
SAME, ORDER = "same", "order"
UNFUSED = "accepted: the fused kernel is never used here"


_MOST_LAYERS = 10_000


def _evaluated(node: ast.expr) -> int | list[int]:
    """Whole numbers and lists of 0 and 1 with + and *. Raises ValueError for anything else."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.List):
        layers = [_evaluated(one) for one in node.elts]
        numbers = [one for one in layers if isinstance(one, int) and one in (0, 1)]
        if len(numbers) == len(layers):
            return numbers
    if isinstance(node, ast.BinOp):
        left, right = _evaluated(node.left), _evaluated(node.right)
        if isinstance(node.op, ast.Add) and isinstance(left, list) and isinstance(right, list):
            return left + right
        if isinstance(node.op, ast.Mult) and isinstance(left, list) and isinstance(right, int):
            return _repeated(left, right)
        if isinstance(node.op, ast.Mult) and isinstance(left, int) and isinstance(right, list):
            return _repeated(right, left)
    raise ValueError


def _repeated(layers: list[int], times: int) -> list[int]:
    if len(layers) * times > _MOST_LAYERS:
        raise ValueError
    return layers * times


def layer_frequency(text: str) -> int | list[int]:
    """--moe-layer-freq: N, or lists of 0 and 1, added and repeated, as Megatron-LM evaluates them."""
    with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        found = _evaluated(ast.parse(text.strip(), mode="eval").body)
        if isinstance(found, list) or found > 0:
            return found
    raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor a sum such as [0]*1+[1]*26")


@dataclass(frozen=True)
class Flag:
    """One row: `--name`, how its value is read (bool: a switch), and what the embedded trainer does with it."""

    name: str
    type: Callable[[str], Any]
    default: Any
    does: str
    choices: tuple[Any, ...] | None = None
    nargs: str | None = None
    least: int | None = None
    """The smallest value that makes sense."""
    resume: str | None = None
    """SAME: a checkpoint made with another value is refused. ORDER: another value means other samples: a warning."""

    @property
    def option(self) -> str:
        return f"--{self.name}"

    @property
    def dest(self) -> str:
        return self.name.replace("-", "_")


GROUPS: dict[str, tuple[Flag, ...]] = {
    "model": (
        Flag("num-layers", int, None, "transformer layers", least=1, resume=SAME),
        Flag("hidden-size", int, None, "width of the residual stream", least=1, resume=SAME),
        Flag(
            "ffn-hidden-size",
            int,
            None,
            "width of the MLP; default 4 hidden, with --swiglu 8/3 hidden",
            least=1,
            resume=SAME,
        ),
        Flag("num-attention-heads", int, None, "query heads", least=1, resume=SAME),
        Flag("group-query-attention", bool, False, "share keys and values between query heads"),
        Flag("num-query-groups", int, 1, "key/value heads, with --group-query-attention", least=1, resume=SAME),
        Flag("kv-channels", int, None, "head dimension; default hidden / heads", least=1, resume=SAME),
        Flag("seq-length", int, None, "tokens of a sample", least=1, resume=ORDER),
        Flag("max-position-embeddings", int, None, "longest sequence; at least --seq-length", least=1, resume=SAME),
        Flag(
            "position-embedding-type",
            str,
            "learned_absolute",
            "how positions enter",
            choices=("learned_absolute", "rope", "none"),
            resume=SAME,
        ),
        Flag("rotary-base", int, 10000, "base of the rotary frequencies", least=1, resume=SAME),
        Flag("rotary-percent", float, 1.0, "part of the head dimension that rotates", resume=SAME),
        Flag("use-rope-scaling", bool, False, "scale the rotary frequencies as Llama 3 does", resume=SAME),
        Flag("rope-scaling-factor", float, 8.0, "its factor (Megatron-LM parses it and keeps 8)", resume=SAME),
        Flag(
            "normalization",
            str,
            "LayerNorm",
            "normalization of the layers",
            choices=("LayerNorm", "RMSNorm"),
            resume=SAME,
        ),
        Flag("norm-epsilon", float, 1e-05, "its epsilon", resume=SAME),
        Flag("swiglu", bool, False, "gated linear unit with SiLU in place of GELU", resume=SAME),
        Flag("disable-bias-linear", bool, False, "no bias in linear layers", resume=SAME),
        Flag("add-qkv-bias", bool, False, "bias in the QKV projection only", resume=SAME),
        Flag("qk-layernorm", bool, False, "normalize queries and keys", resume=SAME),
        Flag("untie-embeddings-and-output-weights", bool, False, "give the output layer its own weight", resume=SAME),
        Flag("attention-dropout", float, 0.1, "dropout of attention probabilities"),
        Flag("hidden-dropout", float, 0.1, "dropout of the residual branches"),
        Flag("attention-softmax-in-fp32", bool, False, "attention softmax in fp32 when the model is bf16"),
        Flag(
            "apply-query-key-layer-scaling",
            bool,
            False,
            "scale Q K^T by 1 / layer number; softmax in fp32",
            resume=SAME,
        ),
        Flag("init-method-std", float, 0.02, "standard deviation of the initial weights"),
        Flag("transformer-impl", str, "local", "local only (Megatron-LM's default is transformer_engine)"),
        Flag("attention-backend", str, "auto", "unfused is what the local layers compute", choices=("auto", "unfused")),
        Flag("use-mcore-models", bool, False, "accepted: there are no others"),
        Flag("use-cpu-initialization", bool, False, "accepted: weights always begin on the CPU"),
        Flag("no-persist-layer-norm", bool, False, UNFUSED),
        Flag("no-masked-softmax-fusion", bool, False, UNFUSED),
        Flag("no-rope-fusion", bool, False, UNFUSED),
        Flag("no-bias-swiglu-fusion", bool, False, UNFUSED),
        Flag("no-bias-gelu-fusion", bool, False, UNFUSED),
        Flag("no-bias-dropout-fusion", bool, False, UNFUSED),
        Flag("no-gradient-accumulation-fusion", bool, False, UNFUSED),
    ),
    "multi-latent attention": (
        Flag("multi-latent-attention", bool, False, "keys and values from one compressed vector a token", resume=SAME),
        Flag("q-lora-rank", int, None, "width of the compressed queries; default uncompressed", least=1, resume=SAME),
        Flag("kv-lora-rank", int, 32, "width of the compressed keys and values", least=1, resume=SAME),
        Flag("qk-head-dim", int, 128, "width of a query or key head without its rotary part", least=1, resume=SAME),
        Flag("qk-pos-emb-head-dim", int, 64, "width of the rotary part", least=1, resume=SAME),
        Flag("v-head-dim", int, 128, "width of a value head", least=1, resume=SAME),
        Flag("rope-type", str, None, "default yarn", choices=("rope", "yarn"), resume=SAME),
        Flag("rotary-scaling-factor", float, 1.0, "YaRN's context extension", resume=SAME),
        Flag("mscale", float, 1.0, "YaRN's attention temperature", resume=SAME),
        Flag("mscale-all-dim", float, 0.0, "YaRN's temperature on all dimensions", resume=SAME),
    ),
    "mixture of experts": (
        Flag("num-experts", int, None, "routed experts of a layer", least=1, resume=SAME),
        Flag("moe-layer-freq", layer_frequency, 1, "N, or a list such as ([0]*1+[1]*26): 1 has experts", resume=SAME),
        Flag("moe-ffn-hidden-size", int, None, "width of an expert; default --ffn-hidden-size", least=1, resume=SAME),
        Flag("moe-shared-expert-intermediate-size", int, None, "width of all shared experts", least=1, resume=SAME),
        Flag("moe-router-topk", int, 2, "experts a token is sent to", least=1, resume=SAME),
        Flag("moe-router-pre-softmax", bool, False, "softmax over all experts, before the top k", resume=SAME),
        Flag(
            "moe-router-load-balancing-type",
            str,
            "aux_loss",
            "how the experts' loads are kept even",
            choices=("aux_loss", "seq_aux_loss", "none"),
            resume=SAME,
        ),
        Flag("moe-aux-loss-coeff", float, 0.0, "weight of that loss", resume=SAME),
        Flag("moe-router-dtype", str, None, "of the router's product; default the model's", choices=("fp32", "fp64")),
        Flag(
            "moe-token-dispatcher-type",
            str,
            "allgather",
            "how tokens reach the experts' ranks",
            choices=("allgather", "alltoall"),
        ),
    ),
    "training": (
        Flag("micro-batch-size", int, None, "samples of one forward and backward", least=1),
        Flag("global-batch-size", int, None, "samples of one step; default --micro-batch-size", least=1, resume=SAME),
        Flag("train-iters", int, None, "steps", least=1, resume=ORDER),
        Flag("lr", float, None, "peak learning rate", resume=SAME),
        Flag("min-lr", float, 0.0, "learning rate after the decay", resume=SAME),
        Flag(
            "lr-decay-style", str, "linear", "shape of the decay", choices=("constant", "linear", "cosine"), resume=SAME
        ),
        Flag("lr-decay-iters", int, None, "steps until --min-lr; default --train-iters", least=1, resume=SAME),
        Flag("lr-warmup-iters", int, 0, "steps of linear warmup", resume=SAME),
        Flag("lr-warmup-fraction", float, None, "the same as a part of --lr-decay-iters"),
        Flag("lr-warmup-init", float, 0.0, "learning rate at step 0", resume=SAME),
        Flag("optimizer", str, "adam", "adam is AdamW, as in Megatron-LM", choices=("adam",)),
        Flag("weight-decay", float, 0.01, "decoupled; none on biases and one-dimensional weights", resume=SAME),
        Flag("adam-beta1", float, 0.9, "decay of the gradient's mean"),
        Flag("adam-beta2", float, 0.999, "decay of the gradient's square"),
        Flag("adam-eps", float, 1e-08, "epsilon of Adam's denominator"),
        Flag("clip-grad", float, 1.0, "largest global gradient norm; 0 is off"),
        Flag("seed", int, 1234, "of weights, data order and dropout", resume=ORDER),
        Flag("bf16", bool, False, "bf16 model with fp32 master weights and gradients; without it fp32", resume=SAME),
        Flag("accumulate-allreduce-grads-in-fp32", bool, False, "accepted: always so"),
        Flag("deterministic-mode", bool, False, "refuse operations that are not deterministic"),
        Flag("no-check-for-nan-in-loss-and-grad", bool, False, "go on after a loss that is no number"),
        Flag("recompute-activations", bool, False, "short for --recompute-granularity selective"),
        Flag("recompute-granularity", str, None, "recompute activations (CUDA)", choices=("full", "selective")),
        Flag("recompute-method", str, None, "which layers, with full", choices=("uniform", "block")),
        Flag("recompute-num-layers", int, None, "how many layers, with full"),
        Flag("recompute-modules", str, None, "which parts, with selective; default core_attn", nargs="*"),
        Flag("exit-interval", int, None, "stop after an iteration divisible by this", least=1),
        Flag("exit-signal-handler", bool, False, "on SIGTERM finish the iteration, save and stop"),
    ),
    "parallel": (
        Flag("tensor-model-parallel-size", int, 1, "ranks that share each layer", least=1, resume=SAME),
        Flag("expert-model-parallel-size", int, 1, "data-parallel ranks that share experts", least=1, resume=SAME),
        Flag("expert-tensor-parallel-size", int, None, "ranks that share each expert; default as layers", choices=(1,)),
        Flag("sequence-parallel", bool, False, "with tensor parallelism, also share the sequence between the layers"),
        Flag("pipeline-model-parallel-size", int, 1, "1 only", choices=(1,)),
        Flag("context-parallel-size", int, 1, "1 only", choices=(1,)),
        Flag("distributed-backend", str, None, "default nccl with CUDA, else gloo", choices=("nccl", "gloo")),
        Flag("distributed-timeout-minutes", int, 10, "of collectives", least=1),
        Flag("use-distributed-optimizer", bool, False, WHOLE),
        Flag("overlap-grad-reduce", bool, False, WHOLE),
        Flag("overlap-param-gather", bool, False, WHOLE),
    ),
    "data": (
        Flag(
            "data-path",
            str,
            None,
            "prefix of an indexed dataset, or weight prefix weight prefix ...",
            nargs="*",
            resume=ORDER,
        ),
        Flag("split", str, "969, 30, 1", "parts of the documents for training, validation and test", resume=ORDER),
        Flag("mock-data", bool, False, "Megatron's synthetic sequences in place of --data-path", resume=ORDER),
        Flag("data-cache-path", str, None, "folder of the sample indices; default beside the data"),
        Flag(
            "tokenizer-type",
            str,
            None,
            "HuggingFaceTokenizer reads tokenizer.json",
            choices=("HuggingFaceTokenizer", "NullTokenizer"),
            resume=SAME,
        ),
        Flag("tokenizer-model", str, None, "tokenizer.json, or the folder that holds it"),
        Flag(
            "vocab-size",
            int,
            None,
            "of NullTokenizer, which adds one to end a document; others bring their own",
            least=1,
        ),
        Flag(
            "make-vocab-size-divisible-by", int, 128, "pad the vocabulary to this times tensor parallel size", least=1
        ),
        Flag("num-workers", int, 2, "accepted: samples are read by the training process"),
        Flag("no-create-attention-mask-in-dataloader", bool, False, "accepted: the causal mask is built once"),
    ),
    "output": (
        Flag("log-interval", int, 100, "iterations between log lines", least=1),
        Flag("log-throughput", bool, False, "TFLOP/s in the log line"),
        Flag("log-timers-to-tensorboard", bool, False, "iteration-time and throughput as scalars"),
        Flag("log-memory-to-tensorboard", bool, False, "CUDA's memory statistics as scalars"),
        Flag("log-validation-ppl-to-tensorboard", bool, False, "validation perplexity as a scalar"),
        Flag("tensorboard-dir", str, None, "folder of the event files"),
        Flag("tensorboard-log-interval", int, 1, "iterations between scalars, in Weights & Biases too", least=1),
        Flag("wandb-project", str, None, "Weights & Biases project that scalars go to, beside the event files"),
        Flag("wandb-exp-name", str, None, "name of the run there; needed with --wandb-project"),
        Flag("wandb-entity", str, None, "whose project it is; default the logged-in user's"),
        Flag("wandb-save-dir", str, None, "folder of its files; default SAVE/wandb, else in the run directory"),
        Flag("eval-interval", int, 1000, "iterations between validations", least=1, resume=ORDER),
        Flag("eval-iters", int, 100, "batches of one validation; 0 is off", resume=ORDER),
        Flag("save", str, None, "folder to write checkpoints to"),
        Flag("save-interval", int, None, "iterations between checkpoints; the last one is always saved", least=1),
        Flag("load", str, None, "folder to continue from; an empty one starts afresh"),
        Flag("ckpt-format", str, "torch", "torch only (Megatron-LM's default is torch_dist)", choices=("torch",)),
    ),
}
FLAGS: dict[str, Flag] = {flag.option: flag for group in GROUPS.values() for flag in group}

REQUIRED = (
    "num-layers",
    "hidden-size",
    "num-attention-heads",
    "seq-length",
    "max-position-embeddings",
    "micro-batch-size",
    "train-iters",
    "lr",
    "tokenizer-type",
)

_LOCAL = "the local layers ignore it; quantctl's selectors choose the formats"

# prefix of an option -> why the embedded trainer refuses it
REFUSED: dict[str, str] = {
    "--moe-grouped-gemm": "up to 0.16.1 it bypasses the linear selector, later it changes nothing here; leave it out",
    "--moe-shared-expert-overlap": "it overlaps CUDA streams, and the result is the same; leave it out",
    "--mtp-": "multi-token prediction needs Megatron-LM's pretrain_gpt.py",
    "--fp16": "fp16 needs dynamic loss scaling; use --bf16, or Megatron-LM's pretrain_gpt.py",
    "--fp8-": _LOCAL,
    "--fp4-": _LOCAL,
}
