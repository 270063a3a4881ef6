"""The flags of the embedded trainer: a subset of Megatron-LM's, as one table that the parser and the help walk.

Names, types and meanings are Megatron-LM's (megatron/training/arguments.py), defaults too unless `does` says otherwise.
A flag that Megatron-LM needs but that changes nothing here is accepted, and `does` says why it changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ONE_RANK = "accepted: with one data-parallel rank there is nothing to shard or overlap"
UNFUSED = "accepted: the fused kernel is never used here"


@dataclass(frozen=True)
class Flag:
    """One row: `--name`, how its value is read (bool: a switch), and what the embedded trainer does with it."""

    name: str
    type: type
    default: Any
    group: str
    does: str
    choices: tuple[Any, ...] | None = None
    nargs: str | None = None

    @property
    def option(self) -> str:
        return f"--{self.name}"

    @property
    def dest(self) -> str:
        return self.name.replace("-", "_")


_MODEL = (
    Flag("num-layers", int, None, "model", "transformer layers"),
    Flag("hidden-size", int, None, "model", "width of the residual stream"),
    Flag("ffn-hidden-size", int, None, "model", "width of the MLP; default 4 hidden, with --swiglu 8/3 hidden"),
    Flag("num-attention-heads", int, None, "model", "query heads"),
    Flag("group-query-attention", bool, False, "model", "share keys and values between query heads"),
    Flag("num-query-groups", int, 1, "model", "key/value heads, with --group-query-attention"),
    Flag("kv-channels", int, None, "model", "head dimension; default hidden / heads"),
    Flag("seq-length", int, None, "model", "tokens of a sample"),
    Flag("max-position-embeddings", int, None, "model", "longest sequence; at least --seq-length"),
    Flag(
        "position-embedding-type",
        str,
        "learned_absolute",
        "model",
        "how positions enter",
        ("learned_absolute", "rope", "none"),
    ),
    Flag("rotary-base", int, 10000, "model", "base of the rotary frequencies"),
    Flag("rotary-percent", float, 1.0, "model", "part of the head dimension that rotates"),
    Flag("use-rope-scaling", bool, False, "model", "scale the rotary frequencies as Llama 3 does"),
    Flag("rope-scaling-factor", float, 8.0, "model", "its factor (Megatron-LM parses it and keeps 8)"),
    Flag("normalization", str, "LayerNorm", "model", "normalization of the layers", ("LayerNorm", "RMSNorm")),
    Flag("norm-epsilon", float, 1e-5, "model", "its epsilon"),
    Flag("swiglu", bool, False, "model", "gated linear unit with SiLU in place of GELU"),
    Flag("disable-bias-linear", bool, False, "model", "no bias in linear layers"),
    Flag("add-qkv-bias", bool, False, "model", "bias in the QKV projection only"),
    Flag("qk-layernorm", bool, False, "model", "normalize queries and keys"),
    Flag("untie-embeddings-and-output-weights", bool, False, "model", "give the output layer its own weight"),
    Flag("attention-dropout", float, 0.1, "model", "dropout of attention probabilities"),
    Flag("hidden-dropout", float, 0.1, "model", "dropout of the residual branches"),
    Flag("attention-softmax-in-fp32", bool, False, "model", "attention softmax in fp32 when the model is bf16"),
    Flag("apply-query-key-layer-scaling", bool, False, "model", "scale Q K^T by 1 / layer number; softmax in fp32"),
    Flag("init-method-std", float, 0.02, "model", "standard deviation of the initial weights"),
    Flag("transformer-impl", str, "local", "model", "local only (Megatron-LM's default is transformer_engine)"),
    Flag("attention-backend", str, "auto", "model", "unfused is what the local layers compute", ("auto", "unfused")),
    Flag("use-mcore-models", bool, False, "model", "accepted: there are no others"),
    Flag("use-cpu-initialization", bool, False, "model", "accepted: weights always begin on the CPU"),
    Flag("no-persist-layer-norm", bool, False, "model", UNFUSED),
    Flag("no-masked-softmax-fusion", bool, False, "model", UNFUSED),
    Flag("no-rope-fusion", bool, False, "model", UNFUSED),
    Flag("no-bias-swiglu-fusion", bool, False, "model", UNFUSED),
    Flag("no-bias-gelu-fusion", bool, False, "model", UNFUSED),
    Flag("no-bias-dropout-fusion", bool, False, "model", UNFUSED),
    Flag("no-gradient-accumulation-fusion", bool, False, "model", UNFUSED),
)
_TRAINING = (
    Flag("micro-batch-size", int, None, "training", "samples of one forward and backward"),
    Flag("global-batch-size", int, None, "training", "samples of one step; default --micro-batch-size"),
    Flag("train-iters", int, None, "training", "steps"),
    Flag("lr", float, None, "training", "peak learning rate"),
    Flag("min-lr", float, 0.0, "training", "learning rate after the decay"),
    Flag("lr-decay-style", str, "linear", "training", "shape of the decay", ("constant", "linear", "cosine")),
    Flag("lr-decay-iters", int, None, "training", "steps until --min-lr; default --train-iters"),
    Flag("lr-warmup-iters", int, 0, "training", "steps of linear warmup"),
    Flag("lr-warmup-fraction", float, None, "training", "the same as a part of --lr-decay-iters"),
    Flag("lr-warmup-init", float, 0.0, "training", "learning rate at step 0"),
    Flag("optimizer", str, "adam", "training", "adam is AdamW, as in Megatron-LM", ("adam",)),
    Flag("weight-decay", float, 0.01, "training", "decoupled; none on biases and one-dimensional weights"),
    Flag("adam-beta1", float, 0.9, "training", "decay of the gradient's mean"),
    Flag("adam-beta2", float, 0.999, "training", "decay of the gradient's square"),
    Flag("adam-eps", float, 1e-8, "training", "epsilon of Adam's denominator"),
    Flag("clip-grad", float, 1.0, "training", "largest global gradient norm; 0 is off"),
    Flag("seed", int, 1234, "training", "of weights, data order and dropout"),
    Flag("bf16", bool, False, "training", "bf16 model with fp32 master weights and gradients; without it fp32"),
    Flag("accumulate-allreduce-grads-in-fp32", bool, False, "training", "accepted: always so"),
    Flag("deterministic-mode", bool, False, "training", "refuse operations that are not deterministic"),
    Flag("no-check-for-nan-in-loss-and-grad", bool, False, "training", "go on after a loss that is no number"),
    Flag("recompute-activations", bool, False, "training", "short for --recompute-granularity selective"),
    Flag("recompute-granularity", str, None, "training", "recompute activations (CUDA)", ("full", "selective")),
    Flag("recompute-method", str, None, "training", "which layers, with full", ("uniform", "block")),
    Flag("recompute-num-layers", int, None, "training", "how many layers, with full"),
    Flag("exit-interval", int, None, "training", "stop after an iteration divisible by this"),
    Flag("exit-signal-handler", bool, False, "training", "on SIGTERM finish the iteration, save and stop"),
)
_PARALLEL = (
    Flag("tensor-model-parallel-size", int, 1, "parallel", "ranks that share each layer; must be all ranks"),
    Flag("pipeline-model-parallel-size", int, 1, "parallel", "1 only", (1,)),
    Flag("context-parallel-size", int, 1, "parallel", "1 only", (1,)),
    Flag("distributed-backend", str, None, "parallel", "default nccl with CUDA, else gloo", ("nccl", "gloo")),
    Flag("distributed-timeout-minutes", int, 10, "parallel", "of collectives"),
    Flag("use-distributed-optimizer", bool, False, "parallel", ONE_RANK),
    Flag("overlap-grad-reduce", bool, False, "parallel", ONE_RANK),
    Flag("overlap-param-gather", bool, False, "parallel", ONE_RANK),
)
_DATA = (
    Flag("data-path", str, None, "data", "prefix of an indexed dataset, or weight prefix weight prefix ...", None, "*"),
    Flag("split", str, "969, 30, 1", "data", "parts of the documents for training, validation and test"),
    Flag("mock-data", bool, False, "data", "Megatron's synthetic sequences in place of --data-path"),
    Flag("data-cache-path", str, None, "data", "folder of the sample indices; default beside the data"),
    Flag(
        "tokenizer-type",
        str,
        None,
        "data",
        "HuggingFaceTokenizer reads tokenizer.json",
        ("HuggingFaceTokenizer", "NullTokenizer"),
    ),
    Flag("tokenizer-model", str, None, "data", "tokenizer.json, or the folder that holds it"),
    Flag("vocab-size", int, None, "data", "of NullTokenizer, which adds one to end a document; others bring their own"),
    Flag("make-vocab-size-divisible-by", int, 128, "data", "pad the vocabulary to this times tensor parallel size"),
    Flag("num-workers", int, 2, "data", "accepted: samples are read by the training process"),
    Flag("no-create-attention-mask-in-dataloader", bool, False, "data", "accepted: the causal mask is built once"),
)
_OUTPUT = (
    Flag("log-interval", int, 100, "output", "iterations between log lines"),
    Flag("log-throughput", bool, False, "output", "TFLOP/s in the log line"),
    Flag("log-timers-to-tensorboard", bool, False, "output", "iteration-time and throughput as scalars"),
    Flag("log-validation-ppl-to-tensorboard", bool, False, "output", "validation perplexity as a scalar"),
    Flag("tensorboard-dir", str, None, "output", "folder of the event files"),
    Flag("tensorboard-log-interval", int, 1, "output", "iterations between scalars"),
    Flag("eval-interval", int, 1000, "output", "iterations between validations"),
    Flag("eval-iters", int, 100, "output", "batches of one validation; 0 is off"),
    Flag("save", str, None, "output", "folder to write checkpoints to"),
    Flag("save-interval", int, None, "output", "iterations between checkpoints; the last one is always saved"),
    Flag("load", str, None, "output", "folder to continue from; an empty one starts afresh"),
    Flag("ckpt-format", str, "torch", "output", "torch only (Megatron-LM's default is torch_dist)", ("torch",)),
)
FLAGS: dict[str, Flag] = {
    flag.option: flag for flag in (*_MODEL, *_TRAINING, *_PARALLEL, *_DATA, *_OUTPUT)
}

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

_DENSE = "dense models only for now; use Megatron-LM's pretrain_gpt.py"
_LOCAL = "the local layers ignore it; quantctl's selectors choose the formats"

# prefix of an option -> why the embedded trainer refuses it
REFUSED: dict[str, str] = {
    "--multi-latent-attention": _DENSE,
    "--q-lora-rank": _DENSE,
    "--kv-lora-rank": _DENSE,
    "--qk-head-dim": _DENSE,
    "--qk-pos-emb-head-dim": _DENSE,
    "--v-head-dim": _DENSE,
    "--rotary-scaling-factor": _DENSE,
    "--mscale": _DENSE,
    "--rope-type": _DENSE,
    "--moe-": _DENSE,
    "--num-experts": _DENSE,
    "--expert-": _DENSE,
    "--mtp-": _DENSE,
    "--sequence-parallel": "Megatron's local RMSNorm does not support it; leave it out",
    "--fp16": "fp16 needs dynamic loss scaling; use --bf16, or Megatron-LM's pretrain_gpt.py",
    "--fp8-": _LOCAL,
    "--fp4-": _LOCAL,
}
