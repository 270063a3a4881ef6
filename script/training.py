"""The three training configs, and what every run has in common."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingConfig:
    """How long and how closely watched a run is."""

    name: str
    """The value of TRAINING_CONFIG."""
    summary: str
    """One line for people."""
    smoke: bool
    """The model's reduced architecture and recipe in place of the true ones."""
    dtype: str
    """DTYPE unless it is given: one of DTYPES. CPUs without bf16 instructions are up to ten times slower in bf16."""
    train_iters: int
    """Optimizer steps."""
    warmup_divisor: int
    """The learning rate rises over train_iters // warmup_divisor steps, so that a changed TRAIN_ITERS stays valid."""
    global_batch_size: int
    """Sequences an optimizer step."""
    log_interval: int
    """Steps between log lines."""
    eval_interval: int
    """Steps between validations; there is one more at the end."""
    eval_iters: int
    """Batches a validation."""
    save_interval: int
    """Steps between checkpoints."""
    gpus_per_node: int
    """Processes on a machine, unless GPUS_PER_NODE is set."""
    num_workers: int
    """Data loading processes a rank."""
    omp_num_threads: int | None = None
    """OMP_NUM_THREADS unless it is set; None leaves it to torch. On a CPU with other work, spinning threads make a
    small step many times slower, and the last bits of sums depend on the number of threads."""


@dataclass(frozen=True)
class Optimizer:
    """AdamW as the Llama 3 and DeepSeek-V2 papers use it; the learning rate belongs to the model."""

    weight_decay: float = 0.1
    """Decoupled weight decay."""
    adam_beta1: float = 0.9
    """Decay of the first moment."""
    adam_beta2: float = 0.95
    """Decay of the second moment."""
    adam_eps: float = 1e-8
    """Added to the denominator."""
    clip_grad: float = 1.0
    """Largest global gradient norm."""


OPTIMIZER = Optimizer()
SEED = 1234
DTYPES = ("bf16", "fp16", "fp32")
"""Values of DTYPE. fp32 is Megatron's behaviour without a flag."""

TRAINING_CONFIGS: dict[str, TrainingConfig] = {
    config.name: config
    for config in (
        TrainingConfig(
            name="standard",
            summary="the true model for 10,000 steps of 1 million tokens, on 8 GPUs of 80 GB",
            smoke=False,
            dtype="bf16",
            train_iters=10000,
            warmup_divisor=20,
            global_batch_size=256,
            log_interval=10,
            eval_interval=500,
            eval_iters=10,
            save_interval=2500,
            gpus_per_node=8,
            num_workers=2,
        ),
        TrainingConfig(
            name="fast",
            summary="the true model for 200 steps: does it run, how fast, where does the loss start to go",
            smoke=False,
            dtype="bf16",
            train_iters=200,
            warmup_divisor=20,
            global_batch_size=64,
            log_interval=1,
            eval_interval=100,
            eval_iters=5,
            save_interval=200,
            gpus_per_node=8,
            num_workers=2,
        ),
        TrainingConfig(
            name="smoke",
            summary="a reduced model of the same kind, about a minute on a CPU",
            smoke=True,
            dtype="fp32",
            train_iters=200,
            warmup_divisor=10,
            global_batch_size=8,
            log_interval=10,
            eval_interval=100,
            eval_iters=4,
            save_interval=100,
            gpus_per_node=1,
            num_workers=0,
            omp_num_threads=1,
        ),
    )
}
"""Name -> training config."""
