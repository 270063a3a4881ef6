"""The program that a command starts: Megatron's trainers, the embedded one, ms-swift's."""

from __future__ import annotations

import re
from itertools import pairwise

from quantctl.lint.starts import runs

GPT = "pretrain_gpt.py"


EMBEDDED = "quantctl.pretrain"


SWIFT = "ms-swift"


OTHER = "other"


_SCRIPT = re.compile(r"(pretrain|train|finetune)\w*\.py")


TRAINS = ("--num-layers", "--hidden-size", "--micro-batch-size", "--tensor-model-parallel-size", "--train-iters",
           "--transformer-impl", "--num-attention-heads", "--seq-length")  # fmt: skip
"""Flags by which a program that nobody knows, behind a command that nobody knows, is a training."""


def program(words: list[str]) -> tuple[int, str, int] | None:
    """Where the program begins that is started, whose it is, and how many words name it."""
    for index, word in enumerate(words):
        found = _named(word, words[index + 1] if index + 1 < len(words) else "")
        if found is None or (index and words[index - 1] in _FILES):
            continue
        started = runs(words[:index])
        if started is None:
            started = sum(word.partition("=")[0] in TRAINS for word in words[index:]) > 2
        if not started or _only_asks(words[:index]):
            return None
        return index, *found
    return None


_FILES = ("-f", "--files-from", "--script", "-a", "--exclude", "--include")
"""Options whose value is a name, in commands that also start programs."""


def _named(word: str, following: str) -> tuple[str, int] | None:
    """The program that a word names, with the word behind it, and how many words that are."""
    name = word.rpartition("/")[2]
    if word == "-m" and following == EMBEDDED:
        return EMBEDDED, 2
    if word == "-m" and re.fullmatch(r"swift\.cli\._megatron\.(pt|sft|rlhf)", following):
        return SWIFT, 2
    if name == "megatron" and following in ("pt", "sft", "rlhf"):
        return SWIFT, 2
    if name == GPT:
        return GPT, 1
    return (OTHER, 1) if _SCRIPT.fullmatch(name) else None


def _only_asks(front: list[str]) -> bool:
    """Whether quantctl stands in front with a command that starts nothing: lint, check, smoke."""
    for one, two in pairwise([*front, ""]):
        if one.rpartition("/")[2] == "quantctl":
            asked = next((word for word in front[front.index(one) + 1 :] if word in _COMMANDS), two)
            return asked not in ("exec", "launch", "run", "sweep", "")
    return False


# fmt: off
_COMMANDS = frozenset((
    "exec", "launch", "run", "sweep", "lint", "check", "smoke", "set", "restore", "undo", "patch", "inspect",
    "list", "log", "report",
))
# fmt: on
