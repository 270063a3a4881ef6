"""The learning rate over the iterations: Megatron's own OptimizerParamScheduler, from the flags.

Warmup, while n <= w:  lr(n) = init + (lr - init) n / w
then constant:         lr
linear:                min + (lr - min) (1 - r)
cosine:                min + (lr - min) (1 + cos(pi r)) / 2
with n the samples consumed, w and d those of warmup and decay, r = (n - w) / (d - w), and min after d.
Cosine: Loshchilov and Hutter, "SGDR", arXiv 1608.03983; source: megatron/core/optimizer_param_scheduler.py.
"""

from __future__ import annotations

import argparse

from quantctl.pretrain.optimizer import MasterAdamW


def build_schedule(args: argparse.Namespace, optimizer: MasterAdamW):
    """The scheduler that sets `lr` and `weight_decay` of the optimizer's groups; it steps in samples."""
    from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

    return OptimizerParamScheduler(
        optimizer,
        init_lr=args.lr_warmup_init,
        max_lr=args.lr,
        min_lr=args.min_lr,
        lr_warmup_steps=args.lr_warmup_iters * args.global_batch_size,
        lr_decay_steps=args.lr_decay_iters * args.global_batch_size,
        lr_decay_style=args.lr_decay_style,
        start_wd=args.weight_decay,
        end_wd=args.weight_decay,
        wd_incr_steps=args.train_iters * args.global_batch_size,
        wd_incr_style="constant",
        use_checkpoint_opt_param_scheduler=False,
    )
