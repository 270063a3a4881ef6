"""What a run trained, as far as it decides the loss: taken from its command line or from the arguments in its log."""

from __future__ import annotations

import re
from collections.abc import Sequence

from quantctl.output import shortened
from quantctl.outside.masking import masked, masked_pairs
from quantctl.outside.numbers import whole
from quantctl.runs.runlog import PREFIX

# flags that decide where output goes, how closely a run is watched, or how fast data arrives
_WITHOUT_EFFECT = (
    "tensorboard",
    "log-",
    "no-log-",
    "save",
    "load",
    "wandb",
    "ckpt-format",
    "data-cache-path",
    "num-workers",
    "eval-i",
    "exit-",
    "timing-log",
    "distributed-timeout",
    "no-check-for-nan",
    "no-create-attention-mask",
    "rank",
    "local-rank",
    "world-size",
    "one-logger",
    "app-tag",
    "straggler",
    "iteration",
    "consumed-",
)
_DUMPED = re.compile(rf"^{PREFIX} {{2}}([a-z]\w*) \.{{3,}} (.*)$")
_LONGEST = 80
"""Characters of a value that a difference shows."""
_TRAINER = re.compile(r"(^|/)[\w-]+\.py$")

Recipe = dict[str, str]
"""Flag without its dashes -> value; without those that have no effect on the loss."""


def _matters(flag: str) -> bool:
    return not flag.startswith(_WITHOUT_EFFECT)


def from_command(command: Sequence[str]) -> Recipe:
    """The trainer's own flags in a command line; a launcher's stand before it and are left out, secrets masked."""
    command = masked(command)
    start = 0
    for position, word in enumerate(command):
        if _TRAINER.search(word) or (word == "quantctl.pretrain" and command[position - 1] == "-m"):
            start = position + 1
            break
    recipe: Recipe = {}
    flag = None
    for word in command[start:]:
        if word.startswith("--"):
            flag, equals, value = word[2:].partition("=")
            recipe[flag] = value if equals else ""
        elif flag is not None:
            recipe[flag] = f"{recipe[flag]} {word}".strip()
    return {name: value for name, value in recipe.items() if _matters(name)}


def dumped(line: str) -> tuple[str, str] | None:
    """The flag and its value, of a line of the arguments that Megatron-LM writes to its log before it trains."""
    found = _DUMPED.match(line)
    name = found[1].replace("_", "-") if found else ""
    if not found or not _matters(name):
        return None
    return name, masked_pairs({name: found[2].strip()})[name]


def seed(recipe: Recipe) -> int | None:
    """The run's seed; Megatron's default where the flag is absent, None for an unknown recipe or no number."""
    number = whole(recipe.get("seed", "1234")) if recipe else None
    return number if number is not None and number >= 0 else None


def differences(recipe: Recipe, base: Recipe) -> list[str]:
    """What differs but for the seed, as `--flag mine against theirs`."""
    flags = sorted((recipe.keys() | base.keys()) - {"seed"})

    def shown(of: Recipe, flag: str) -> str:
        return shortened(of.get(flag, "absent") or "given", _LONGEST)

    return [
        f"--{shortened(flag, _LONGEST)} {shown(recipe, flag)} against {shown(base, flag)}"
        for flag in flags
        if recipe.get(flag) != base.get(flag)
    ]
