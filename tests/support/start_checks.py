"""Commands around every check of a release, through the release itself and through lint.

    python tests/support/start_checks.py RELEASE TREE [COMMANDS] [SEED]

Every pair of flags that a check mentions, or the conditions around it, with values that decide it either way. No
command that the release refuses may pass, none that it takes may be an error.
"""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

from quantctl.lint.case import Setting
from quantctl.lint.judge import judge_command
from quantctl.lint.megatron_flags import table
from quantctl.lint.start import child
from quantctl.lint.start.launch import table as checks_of

BASE = [
    "--num-layers",
    "8",
    "--hidden-size",
    "64",
    "--num-attention-heads",
    "8",
    "--seq-length",
    "64",
    "--max-position-embeddings",
    "64",
    "--micro-batch-size",
    "1",
    "--global-batch-size",
    "8",
    "--train-iters",
    "10",
    "--eval-interval",
    "10",
    "--lr",
    "1e-4",
    "--attention-backend",
    "fused",
]
FRONT = ["env", "CUDA_DEVICE_MAX_CONNECTIONS=1", "torchrun", "--nproc-per-node", "8", "pretrain_gpt.py"]
# decided by what is installed or by the machine, not by flags alone
ELSEWHERE = ("te_", "transformer engine", "transformer-engine", "transformerengine", "not installed", "must be installed", "cuda",  # noqa: E501
             "no module named", "import", "compute capability", "no such file", "nvte", "pytorch", "deepep", "flash",
             "resiliency", "nvrx", "hopper", "blackwell", "version", "sharp", "nccl", "install te")  # fmt: skip


def mentions(code, around=frozenset()):
    """The sets of attributes that each check and the conditions around it speak of."""
    for one in code:
        if one[0] == "if":
            inner = around | attributes(one[1])
            yield from mentions(one[2], inner)
            yield from mentions(one[3], inner)
        elif one[0] == "for":
            yield from mentions(one[3], around)
        elif one[0] == "assert":
            yield around | attributes(one[1])
        elif one[0] == "raise":
            yield around


def attributes(code) -> frozenset[str]:
    found, stack = set(), [code]
    while stack:
        here = stack.pop()
        if isinstance(here, list):
            if len(here) == 3 and here[0] == "a" and here[1] in (["n", "args"], ["n", "self"]):
                found.add(here[2])
            elif here[:1] == ["n"]:
                found.add(here[1])
            stack += here
    return frozenset(found)


def pairs(checks) -> list[tuple[str, ...]]:
    bodies = [one["body"] for one in checks["functions"].values()]
    bodies += [method["body"] for one in checks["classes"].values() for method in one["methods"].values()]
    found: dict[tuple[str, ...], None] = {}
    for body in bodies:
        for names in mentions(body):
            for pair in itertools.combinations(sorted(names), min(2, len(names))):
                found[pair] = None
            found[tuple(sorted(names))] = None
    return list(found)


_ALIASES = {"num_moe_experts": "num_experts", "num_layers_in_first_pipeline_stage": "decoder_first_pipeline_num_layers",
            "num_layers_in_last_pipeline_stage": "decoder_last_pipeline_num_layers", "fp8_param": "fp8_param_gather"}  # fmt: skip  # noqa: E501


def words(draw: random.Random, options) -> list[str]:
    option = draw.choice(options)
    if option.is_switch:
        return [option.name]
    count = option.nargs if isinstance(option.nargs, int) else draw.choice((1, 2))
    values = []
    for _ in range(count):
        if option.choices:
            values.append(draw.choice(option.choices))
        elif option.type == "int":
            values.append(str(draw.choice((1, 1, 2, 2, 4, 8, 3, 6, 0, 64, 128))))
        elif option.type == "float":
            values.append(draw.choice(("0", "0.5", "1", "2", "-1")))
        elif option.type in ("str", None):
            values.append(draw.choice(("x", "1", "all")))
        else:
            values.append(draw.choice(("1", "2", "4")))
    return [option.name, *values]


def commands(release: str, root: Path, count: int, seed: int) -> list[list[str]]:
    draw = random.Random(seed)
    by_attribute: dict[str, list] = {}
    for option in table(release).values():
        by_attribute.setdefault(option.attribute, []).append(option)
    found = []
    every = pairs(checks_of(root))
    draw.shuffle(every)
    for names in itertools.cycle(every):
        flags: list[str] = []
        for name in names:
            options = by_attribute.get(_ALIASES.get(name, name))
            if options and (len(names) < 3 or draw.random() < 0.8):
                flags += words(draw, options)
        if draw.random() < 0.7:
            flags += ["--bf16"]
        if draw.random() < 0.4:
            flags += ["--transformer-impl", draw.choice(("local", "transformer_engine"))]
        found.append(flags)
        if len(found) >= count:
            return found
    return found


def of_release(tree: Path, all_flags: list[list[str]]) -> list[str]:
    given = [
        {"world": 8, "flags": BASE + flags, "environment": {"CUDA_DEVICE_MAX_CONNECTIONS": "1"}} for flags in all_flags
    ]
    done = subprocess.run([sys.executable, child.__file__ or "", str(tree)], input=json.dumps(given), text=True,
                          capture_output=True, check=False)  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


_NOT_AT_THE_START = ("selectors-never-run", "fp8-ignored", "name-says-otherwise", "persist-layer-norm", "mla-local",
                     "norm-sequence-parallel", "moe-tensor-parallel", "context-parallel-local", "mtp-without-te",
                     "moe-without-te", "grouped-gemm", "eval-interval", "sequence-parallel-length", "te-missing",
                     "gradient-accumulation-fusion", "masked-softmax-fusion", "rope-fusion")  # fmt: skip


def of_lint(setting: Setting, flags: list[str]) -> tuple[str, str]:
    """What lint says of the start, and of anything."""
    judged = judge_command([*FRONT, *BASE, *flags], setting)
    errors = [f"{one.rule.id}: {one.message}" for one in judged.findings if one.severity.value == "error"]
    return "; ".join(one for one in errors if not one.startswith(_NOT_AT_THE_START)), "; ".join(errors)


def compare(release: str, tree: Path, count: int, seed: int):
    all_flags = commands(release, tree, count, seed)
    said = of_release(tree, all_flags)
    setting = Setting(release, tree)
    counts: Counter[str] = Counter()
    wrong = []
    for flags, real in zip(all_flags, said, strict=True):
        at_start, anything = of_lint(setting, flags)
        if bool(real) == bool(at_start) or (real and anything):
            counts["refused by both" if real else "taken by both"] += 1
        elif real and any(sign in real.lower() for sign in ELSEWHERE):
            counts["refused for what is installed"] += 1
        else:
            counts["refused, and lint says nothing" if real else "taken, and lint says error"] += 1
            wrong.append((flags, real, at_start))
    return counts, wrong


if __name__ == "__main__":
    release, tree = sys.argv[1], Path(sys.argv[2])
    counts, wrong = compare(release, tree, int((sys.argv[3:] or ["500"])[0]), int((sys.argv[4:] or ["0"])[0]))
    for flags, real, mine in wrong:
        print(" ".join(flags), f"   release: {real}", f"   lint: {mine}", sep="\n")
    print(release, dict(counts))
    sys.exit(bool(wrong))
