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
from collections.abc import Iterator
from pathlib import Path

from quantctl.lint.case import Setting
from quantctl.lint.judge import judge_command
from quantctl.lint.megatron_flags import table
from quantctl.lint.start.ask import CHILD
from quantctl.lint.start.launch import tree
from quantctl.lint.start.source import Class, Definition, Function, Tree

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
ELSEWHERE = ("te_", "te >=", "te version", "transformer engine", "transformer-engine", "transformerengine",
             "not installed", "must be installed", "no module named", "cannot import", "importerror", "no such file",
             "compute capability", "nvte", "pytorch", "deepep", "flash", "resiliency", "nvrx", "hopper", "blackwell",
             "'version'", "use_sharp", "nccl", "cuda enabled", "install te")  # fmt: skip


def mentions(code, around=frozenset()):
    """The sets of attributes that each check and the conditions around it speak of."""
    for one in code:
        if one[0] == "if":
            inner = around | attributes(one[1])
            yield from mentions(one[2], inner)
            yield from mentions(one[3], inner)
        elif one[0] == "for":
            yield from mentions(one[3], around)
            yield from mentions(one[4], around)
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


def followed(sources: Tree) -> list[Function]:
    """The functions that the trainer's checks consist of, those that they call among them."""
    wanted = [("megatron.training.arguments", "validate_args"), ("megatron.core.parallel_state", "initialize_model_parallel"),  # noqa: E501
              ("megatron.training.argument_utils", "core_transformer_config_from_args"),
              ("megatron.training.arguments", "core_transformer_config_from_args")]  # fmt: skip
    wanted += [("megatron.core.transformer.transformer_config", f"{kind}TransformerConfig") for kind in ("", "MLA")]
    seen: dict[tuple[str, str], Definition | None] = {}
    while wanted:
        place = wanted.pop()
        if place in seen:
            continue
        found = seen[place] = sources.find(*place)
        inside = found.methods.values() if isinstance(found, Class) else [found] if isinstance(found, Function) else []
        wanted += [(one.module, name) for one in inside for name in names(one.body)]
        wanted += [(found.module, base) for base in found.bases] if isinstance(found, Class) else []
    functions = {id(one): one for one in seen.values() if isinstance(one, Function)}
    for one in seen.values():
        functions |= {id(method): method for method in one.methods.values()} if isinstance(one, Class) else {}
    return list(functions.values())


def names(code) -> Iterator[str]:
    """The names that a piece of code mentions."""
    stack = [code]
    while stack:
        here = stack.pop()
        if isinstance(here, list):
            if len(here) == 2 and here[0] == "n":
                yield here[1]
            stack += here
        elif isinstance(here, dict):
            stack += here.values()


def compared(functions: list[Function]) -> dict[str, set[str]]:
    """The texts that the checks compare an attribute with."""
    found: dict[str, set[str]] = {}
    stack: list = [one.body for one in functions]
    while stack:
        here = stack.pop()
        if isinstance(here, list):
            if here[:1] == ["cmp"]:
                texts = set(constants(here))
                for name in attributes(here):
                    found.setdefault(name, set()).update(texts)
            stack += here
        elif isinstance(here, dict):
            stack += here.values()
    return found


def constants(code) -> Iterator[str]:
    stack = [code]
    while stack:
        here = stack.pop()
        if isinstance(here, list):
            if len(here) == 2 and here[0] == "c" and isinstance(here[1], str) and here[1] and " " not in here[1]:
                yield here[1]
            elif len(here) == 3 and here[0] == "a" and here[1][0] == "n" and here[1][1][:1].isupper():
                yield here[2]  # an enumeration's member
            stack += here


def pairs(functions: list[Function]) -> list[tuple[str, ...]]:
    found: dict[tuple[str, ...], None] = {}
    for function in functions:
        for mentioned in mentions(function.body):
            for pair in itertools.combinations(sorted(mentioned), min(2, len(mentioned))):
                found[pair] = None
            found[tuple(sorted(mentioned))] = None
    return list(found)


_ALIASES = {"num_moe_experts": "num_experts", "num_layers_in_first_pipeline_stage": "decoder_first_pipeline_num_layers",
            "num_layers_in_last_pipeline_stage": "decoder_last_pipeline_num_layers", "fp8_param": "fp8_param_gather"}  # fmt: skip  # noqa: E501


_LISTS = ("[1]*8", "[0,1]*4", "x", "2", "0")
_SPECIAL = {"pipeline_model_parallel_layout": ("Ett|tttt|ttL", "E|t*8|L", "Et*4|t*4L", "Et*4|t*4,m|L", "tL", "Ex|L"),
            "hybrid_layer_pattern": ("M*M*", "MMMM-M*-", "M-M*|M-M*", "M*/MM/MM", "Mx"),
            "hybrid_override_pattern": ("M*M*M*M*", "M-", "Z")}  # fmt: skip


def words(draw: random.Random, options, texts) -> list[str]:
    option = draw.choice(options)
    texts = sorted(texts.get(option.attribute, ())) + list(_SPECIAL.get(option.attribute, ()))
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
            values.append(draw.choice(("x", "1", "all", *texts, *texts)))
        else:
            values.append(draw.choice(("1", "2", "4", *_LISTS, *texts, *texts)))
    return [option.name, *values]


def commands(release: str, root: Path, count: int, seed: int) -> list[list[str]]:
    draw = random.Random(seed)
    by_attribute: dict[str, list] = {}
    for option in table(release).values():
        by_attribute.setdefault(option.attribute, []).append(option)
    found = []
    functions = followed(tree(root))
    every, texts = pairs(functions), compared(functions)
    draw.shuffle(every)
    for names in itertools.cycle(every):
        flags: list[str] = []
        for name in names:
            options = by_attribute.get(_ALIASES.get(name, name))
            if options and (len(names) < 3 or draw.random() < 0.8):
                flags += words(draw, options, texts)
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
    done = subprocess.run([sys.executable, str(CHILD), str(tree)], input=json.dumps(given), text=True,
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
    release, root = sys.argv[1], Path(sys.argv[2])
    counts, wrong = compare(release, root, int((sys.argv[3:] or ["500"])[0]), int((sys.argv[4:] or ["0"])[0]))
    for flags, real, mine in wrong:
        print(" ".join(flags), f"   release: {real}", f"   lint: {mine}", sep="\n")
    print(release, dict(counts))
    sys.exit(bool(wrong))
