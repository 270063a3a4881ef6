"""The environment variables that a training script takes, and how numbers among them are read."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping

from quantctl.errors import QuantctlError, unknown

POSITIONAL = ("CHECKPOINT_PATH", "TENSORBOARD_LOGS_PATH", "TOKENIZER", "DATA_PATH", "DTYPE")
"""What a script's five arguments are called in the environment."""

SETTINGS: dict[str, str] = {
    "CHECKPOINT_PATH": "checkpoints are read from and written to it (RUN_DIR/checkpoints; smoke: none)",
    "TENSORBOARD_LOGS_PATH": "TensorBoard events (RUN_DIR/tensorboard)",
    "TOKENIZER": "a Hugging Face tokenizer: a folder or a name",
    "DATA_PATH": "Megatron's indexed dataset without .bin",
    "DTYPE": "bf16, fp16 or fp32 (the script's)",
    "TRAINING_CONFIG": "standard, fast or smoke (standard)",
    "PLATFORM": "cuda, npu or cpu (cuda)",
    "RUN_DIR": "manifest, log and proof (runs/<model>_<dataset>_<mode>_<config>)",
    "SEED": "of weights and data order (the script's)",
    "TRAIN_ITERS": "optimizer steps; the warm-up keeps its share (the script's)",
    "MODE": "a mode or recipe in the place of the script's, e.g. te-nvfp4 (quantctl list modes recipes)",
    "SELECTORS": "selectors over the mode's, in a shell's words, e.g. \"--linear 'mxfp8; layers 1-2: none'\"",
    "STATS": "record what the formats do to the products, e.g. every=100",
    "MEGATRON_LM_PATH": "the tree; with a pretrain_gpt.py in it, that is the trainer",
    "GPUS_PER_NODE": "processes a node (the script's)",
    "OMP_NUM_THREADS": "threads of a process (torch's; smoke: 1)",
    "SET_ENV": "CANN's set_env.sh, for PLATFORM=npu",
    "NNODES": "nodes, started one by one (1; in a Slurm job Slurm's, as the three below)",
    "NODE_RANK": "which of them this is (0)",
    "MASTER_ADDR": "host of node 0",
    "MASTER_PORT": "a port there (29500)",
    "LINT": "0 starts in spite of lint's errors, or of too little memory",
    "FORCE": "1 starts in spite of what RUN_DIR holds",
    "DRY_RUN": "1 prints the command and does nothing",
    "PYTHON": "the Python that trains (beside quantctl)",
    "QUANTCTL": "the quantctl executable (on PATH, else the repository's .venv)",
}
"""Variable -> what it is, and its default in brackets."""

_SHOWN = 40


def shown(text: str) -> str:
    """A value for a message: on one line, without control characters, not endless."""
    clean = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text[: _SHOWN + 1])
    return clean if len(text) <= _SHOWN else f"{clean[:_SHOWN]}..."


def number(environment: Mapping[str, str], name: str, default: int | None, least: int, most: float = math.inf) -> int:
    """A whole number in the environment; `default` where it is not set or empty (None: it must be).

    Raises QuantctlError for anything else, and outside `least` to `most`.
    """
    text = environment.get(name) or ("" if default is None else str(default))
    # int() itself takes underscores, spaces and signs, and refuses more than 4,300 digits with an error of its own
    if not re.fullmatch(r"[0-9]{1,18}", text) or not least <= int(text) <= most:
        reach = f"from {least} up" if most == math.inf else f"from {least} to {int(most)}"
        raise QuantctlError(f"{name}={shown(text)} is not a number {reach}", f"unset {name}, or give a number")
    return int(text)


def positive(name: str, text: str) -> int:
    """A setting of a script. Raises QuantctlError for what is no number above zero."""
    if not re.fullmatch(r"[1-9][0-9]{0,17}", text):
        raise QuantctlError(f"{name}={shown(text)} is not a positive number", "unset it, or give a number")
    return int(text)


def choose(kind: str, value: str, choices: Mapping[str, object] | tuple[str, ...]) -> str:
    """`value`, one of `choices`. Raises QuantctlError that names them."""
    if value not in choices:
        raise unknown(kind, value, choices)
    return value


def plain(kind: str, text: str) -> str:
    """`text`, which another program reads a line at a time. Raises QuantctlError for control characters in it."""
    if any(ord(character) < 32 or 127 <= ord(character) < 160 or character in "\u2028\u2029" for character in text):
        raise QuantctlError(f"{kind} {shown(text)} holds a control character", "give it on one line, without any")
    return text


def words(kind: str, text: str) -> list[str]:
    """`text` as a shell parts it. Raises QuantctlError for a quotation that has no end."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise QuantctlError(f"{kind} {shown(text)}: {error}", "give each quotation its end") from None
