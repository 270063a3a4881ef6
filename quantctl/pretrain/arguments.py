"""From a command line to checked arguments. Every refusal names the flag and what to do next."""

from __future__ import annotations

import argparse
import difflib
import math
from collections.abc import Sequence
from typing import NoReturn

from quantctl.errors import QuantctlError
from quantctl.pretrain.flags import FLAGS, GROUPS, REFUSED, REQUIRED

FULL_SET = (
    "the embedded trainer takes a subset of Megatron-LM's flags; the full set is that of Megatron-LM's pretrain_gpt.py"
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise QuantctlError(message, "python -m quantctl.pretrain --help lists the flags")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m quantctl.pretrain", description=__doc__, epilog=FULL_SET + ".", allow_abbrev=False)
    for title, flags in GROUPS.items():
        group = parser.add_argument_group(title)
        for flag in flags:
            if flag.type is bool:
                group.add_argument(flag.option, action="store_true", help=flag.does)
            else:
                group.add_argument(
                    flag.option,
                    type=flag.type,
                    default=flag.default,
                    choices=flag.choices,
                    nargs=flag.nargs,
                    help=flag.does,
                )
    return parser


def _refuse_unknown(argv: Sequence[str]) -> None:
    for word in argv:
        option = word.partition("=")[0]
        if not option.startswith("--") or option in FLAGS or option == "--help":
            continue
        for prefix, reason in REFUSED.items():
            if option.startswith(prefix):
                raise QuantctlError(f"{option} is refused by the embedded trainer", reason)
        near = difflib.get_close_matches(option, FLAGS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise QuantctlError(f"{option} is not a flag of the embedded trainer", hint + FULL_SET)


def _require(holds: bool, message: str, hint: str) -> None:
    if not holds:
        raise QuantctlError(message, hint)


def _fill(args: argparse.Namespace) -> None:
    """Derived defaults, as Megatron-LM's validate_args computes them."""
    if args.ffn_hidden_size is None:
        # a gated MLP has three matrices in place of two: 2/3 of the width, rounded to a multiple of 64
        wide = 4 * args.hidden_size
        args.ffn_hidden_size = int(wide * 2 / 3) // 64 * 64 if args.swiglu else wide
    if args.kv_channels is None:
        args.kv_channels = args.hidden_size // args.num_attention_heads
    if not args.group_query_attention:
        args.num_query_groups = args.num_attention_heads
    if args.global_batch_size is None:
        args.global_batch_size = args.micro_batch_size
    if args.lr_decay_iters is None:
        args.lr_decay_iters = args.train_iters
    if args.lr_warmup_fraction is not None:
        args.lr_warmup_iters = args.lr_warmup_fraction * args.lr_decay_iters
    if args.num_experts is not None and args.moe_ffn_hidden_size is None:
        args.moe_ffn_hidden_size = args.ffn_hidden_size
    if args.expert_tensor_parallel_size is None:
        args.expert_tensor_parallel_size = args.tensor_model_parallel_size
    if args.tensor_model_parallel_size == 1:
        args.sequence_parallel = False
    if args.recompute_activations and args.recompute_granularity is None:
        args.recompute_granularity = "selective"


def _is_split(text: str) -> bool:
    try:
        parts = [float(part) for part in text.split(",")]
    except ValueError:
        return False
    return len(parts) <= 3 and parts[0] > 0 and all(0 <= part < math.inf for part in parts)


def _check_experts(args: argparse.Namespace) -> None:
    """Multi-latent attention and experts."""
    _require(
        not (args.multi_latent_attention and args.group_query_attention),
        "--group-query-attention with --multi-latent-attention",
        "leave it out: multi-latent attention has its own keys and values",
    )
    if args.num_experts is None:
        _require(
            args.expert_model_parallel_size == 1,
            f"--expert-model-parallel-size {args.expert_model_parallel_size} without --num-experts",
            "there are no experts to share",
        )
        return
    pattern = args.moe_layer_freq
    _require(
        isinstance(pattern, int) or len(pattern) == args.num_layers,
        f"--moe-layer-freq {pattern} does not name --num-layers {args.num_layers} layers",
        "give one 0 or 1 for each",
    )
    _require(
        args.num_experts % args.expert_model_parallel_size == 0,
        f"--num-experts {args.num_experts} is not divisible by --expert-model-parallel-size "
        f"{args.expert_model_parallel_size}",
        "change one of them",
    )
    _require(
        args.expert_tensor_parallel_size == args.tensor_model_parallel_size or args.expert_model_parallel_size > 1,
        "--expert-tensor-parallel-size 1 with --tensor-model-parallel-size above 1",
        "the tensor parallel ranks must then have different experts: pass --expert-model-parallel-size",
    )
    _require(
        args.moe_router_topk <= args.num_experts,
        f"--moe-router-topk {args.moe_router_topk} of --num-experts {args.num_experts}",
        "choose fewer",
    )
    _require(
        args.tensor_model_parallel_size == 1 or args.sequence_parallel,
        "--num-experts with --tensor-model-parallel-size above 1 and no --sequence-parallel",
        "Megatron's expert layers refuse that: pass --sequence-parallel",
    )


def _check(args: argparse.Namespace) -> None:
    for flag in FLAGS.values():
        value = getattr(args, flag.dest)
        if flag.least is not None and value is not None:
            _require(value >= flag.least, f"{flag.option} is {value}", f"give a number from {flag.least} up")
    tensor_parallel = args.tensor_model_parallel_size
    for name, by, divisor in (
        ("num-attention-heads", "--num-query-groups", args.num_query_groups),
        ("num-attention-heads", "--tensor-model-parallel-size", tensor_parallel),
        ("num-query-groups", "--tensor-model-parallel-size", tensor_parallel),
        ("ffn-hidden-size", "--tensor-model-parallel-size", tensor_parallel),
        ("seq-length", "--tensor-model-parallel-size", tensor_parallel if args.sequence_parallel else 1),
        ("global-batch-size", "--micro-batch-size", args.micro_batch_size),
    ):
        value = getattr(args, FLAGS[f"--{name}"].dest)
        _require(value % divisor == 0, f"--{name} {value} is not divisible by {by} {divisor}", "change one of them")
    _check_experts(args)
    _require(
        args.max_position_embeddings >= args.seq_length,
        f"--max-position-embeddings {args.max_position_embeddings} is below --seq-length {args.seq_length}",
        "raise it, or shorten the samples",
    )
    _require(
        args.lr_warmup_iters < args.lr_decay_iters,
        f"--lr-warmup-iters {args.lr_warmup_iters} is not below --lr-decay-iters {args.lr_decay_iters}",
        "shorten the warmup, or train longer (--lr-decay-iters defaults to --train-iters)",
    )
    _require(
        0 <= args.min_lr <= args.lr and 0 <= args.lr_warmup_init <= args.lr,
        f"--min-lr {args.min_lr} and --lr-warmup-init {args.lr_warmup_init} must lie between 0 and --lr {args.lr}",
        "change one of them",
    )
    _require(
        bool(args.data_path) != args.mock_data,
        "give --data-path or --mock-data, " + ("not both" if args.data_path else "neither was given"),
        "a dataset to try: --data-path $(python -m quantctl.data.corpus)/text_document",
    )
    _require(
        _is_split(args.split),
        f"--split {args.split}: these are no parts for training, validation and test",
        "give three numbers such as 990,10,0",
    )
    full = args.recompute_granularity == "full"
    _require(
        full == (args.recompute_num_layers is not None) and full == (args.recompute_method is not None),
        f"--recompute-granularity {args.recompute_granularity} with --recompute-method {args.recompute_method} and "
        f"--recompute-num-layers {args.recompute_num_layers}",
        "full needs both, selective neither",
    )
    _require(
        args.save_interval is None or args.save is not None,
        "--save-interval without --save",
        "say with --save DIR where the checkpoints go",
    )
    _require(
        not args.wandb_project or bool(args.wandb_exp_name),
        "--wandb-project without --wandb-exp-name",
        "Megatron-LM wants both: name the run",
    )


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Checked arguments with derived defaults filled in. Raises QuantctlError; prints and exits on --help only."""
    _refuse_unknown(argv)
    args = _parser().parse_args(list(argv))
    missing = [f"--{name}" for name in REQUIRED if getattr(args, FLAGS[f"--{name}"].dest) is None]
    _require(not missing, f"missing: {' '.join(missing)}", "Megatron-LM needs them too; they have no default")
    _require(
        args.transformer_impl == "local",
        f"--transformer-impl {args.transformer_impl}: the embedded trainer runs the local layers only",
        "pass --transformer-impl local; Megatron-LM's own pretrain_gpt.py builds Transformer Engine's layers too",
    )
    _fill(args)
    _check(args)
    return args
