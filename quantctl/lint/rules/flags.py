"""Flags that the release's parser would refuse, or take for something else than was meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from quantctl.lint.arguments import Given, is_unknown
from quantctl.lint.case import Case
from quantctl.lint.command import EMBEDDED, GPT
from quantctl.lint.megatron_flags import Option, holders, releases
from quantctl.lint.rule import Hit, Rule, Severity

# pretrain_gpt.py takes these where NVIDIA ModelOpt is installed (megatron/post_training/arguments.py)
_MODELOPT = ("--export-", "--modelopt-enabled", "--finetune-", "--teacher-model-config", "--enable-gpt-oss",
             "--freeze-base-for-mtp", "--qad-train-target")  # fmt: skip
_PLACEHOLDER = re.compile(r"<[A-Za-z][^<>]*>")
_HARMLESS = ("-h", "--help")
_MOST_STRANGE = 100
"""Options that are looked for in a fork's sources and in other releases."""
_LONGEST_NAME = 80


@lru_cache(maxsize=4)
def _own_sources(root: Path) -> bytes:
    """The code in which a tree can define options of its own."""
    files = [*root.glob("*.py"), *(root / "megatron" / "training").rglob("*.py"),
             root / "megatron/core/transformer/transformer_config.py"]  # fmt: skip
    return b"\n".join(file.read_bytes() for file in files if file.is_file())


def _of_a_fork(case: Case, name: str) -> bool:
    """Whether the tree in use defines the option: then it is the fork's, and no table knows it."""
    root = case.setting.root
    if root is None or case.command.program == EMBEDDED:
        return False
    code, field = _own_sources(root), name.lstrip("-").replace("-", "_")
    named = any(f"{quote}{name}{quote}".encode() in code for quote in "'\"")
    # a field of a dataclass becomes an option, too; that of an option which a release dropped may have stayed
    return named or (not holders(name) and f"    {field}:".encode() in code)


def _strange(case: Case) -> list[Given]:
    """Options that no table of the release has, each once."""
    if case.command.program not in (GPT, EMBEDDED) or case.command.foreign:
        return []
    found = {
        one.name: one
        for one in case.arguments.given
        if one.option is None
        and not is_unknown(one.name)
        and one.name not in _HARMLESS
        and not one.name.startswith(_MODELOPT)
    }
    return list(found.values())


def _unknown(case: Case) -> list[Given]:
    return [one for one in _strange(case)[:_MOST_STRANGE] if not _of_a_fork(case, one.name)]


def _nearest(case: Case, name: str) -> str:
    if len(name) > _LONGEST_NAME:
        return ""
    found = difflib.get_close_matches(name.replace("_", "-"), case.options, n=1, cutoff=0.75)
    return found[0] if found else ""


def _elsewhere(case: Case, name: str) -> tuple[str, ...]:
    return () if case.command.program == EMBEDDED else holders(name)


def _typo(case: Case) -> Iterator[Hit]:
    for one in _unknown(case):
        if not _elsewhere(case, one.name):
            nearest = _nearest(case, one.name)
            whose = (
                "the embedded trainer" if case.command.program == EMBEDDED else f"Megatron-LM {case.setting.release}"
            )
            guess = f"; did you mean {nearest}?" if nearest else ""
            yield Hit(f"{whose} has no flag {one.name}{guess}", (one.name,))
    if more := _strange(case)[_MOST_STRANGE:]:
        yield Hit(
            f"{len(more)} more flags that {case.setting.release} does not have were not looked at", (more[0].name,)
        )


def _removed(case: Case) -> Iterator[Hit]:
    for one in _unknown(case):
        if (had := _elsewhere(case, one.name)) and releases().index(had[-1]) < releases().index(case.setting.release):
            yield Hit(f"{one.name} was removed: {had[-1]} is the last release that has it", (one.name,))


def _not_yet(case: Case) -> Iterator[Hit]:
    for one in _unknown(case):
        if (has := _elsewhere(case, one.name)) and releases().index(has[-1]) > releases().index(case.setting.release):
            yield Hit(f"{case.setting.release} has no {one.name} yet: it comes with {has[0]}", (one.name,))


def _fits(option: Option, value: str) -> bool:
    try:
        {"int": int, "float": float}.get(option.type or "", str)(value)
    except ValueError:
        return False
    return True


def _known(case: Case) -> Iterator[tuple[Given, Option]]:
    for one in case.arguments.given:
        if one.option is not None:
            yield one, one.option


def _choice(case: Case) -> Iterator[Hit]:
    for one, option in _known(case):
        for value in one.values:
            if option.choices and option.nargs != 0 and not is_unknown(value) and value not in option.choices:
                yield Hit(
                    f"{one.name} {value}: {case.setting.release} takes {', '.join(option.choices)}",
                    (one.name,),
                    fix=_FORMAT_FIX if one.name == "--fp8-format" else None,
                )


_FORMAT_FIX = (
    "mxfp8 is a recipe there: --fp8-format e4m3 --fp8-recipe mxfp8; with local layers use quantctl's selectors"
)


def _type(case: Case) -> Iterator[Hit]:
    for one, option in _known(case):
        for value in one.values:
            if not option.choices and not is_unknown(value) and not _fits(option, value):
                kind = {"int": "a whole number", "float": "a number"}[option.type or ""]
                yield Hit(f"{one.name} {value!r}: it takes {kind}", (one.name,))


def _count(case: Case) -> Iterator[Hit]:
    for one, option in _known(case):
        if not one.complete:
            yield Hit(f"{one.name} lacks its value" + "s" * (option.nargs not in (1, "+")), (one.name,))
        stray = [word for word in one.extra if not is_unknown(word)]
        if _PLACEHOLDER.search(" ".join((*one.values, *stray))):
            continue
        if stray and len(stray) == len(one.extra):
            takes = "is a switch" if option.is_switch else f"takes {option.nargs}"
            yield Hit(f"{' '.join(stray)!r} behind {one.name}: the flag {takes}, the rest is refused", (one.name,))


def _placeholder(case: Case) -> Iterator[Hit]:
    for one, _ in _known(case):
        if found := _PLACEHOLDER.search(" ".join((*one.values, *one.extra))):
            yield Hit(f"{one.name} still holds the placeholder {found[0]}", (one.name,))


def _quotes(case: Case) -> Iterator[Hit]:
    for one, _ in _known(case):
        for value in one.values:
            if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
                yield Hit(f"{one.name} gets the value {value} with its quotes", (one.name,))


_READ = "argparse without abbreviations: the parser stops before anything is built"
_TABLES = "quantctl/lint/megatron_flags, read from the live parsers"

RULES = (
    Rule(
        id="flag-unknown",
        family="flags",
        severity=Severity.ERROR,
        what="a flag that the release does not have",
        why=_READ,
        fix="correct the flag, or take it out",
        releases="all",
        evidence=_TABLES,
        check=_typo,
    ),
    Rule(
        id="flag-removed",
        family="flags",
        severity=Severity.ERROR,
        what="a flag that the release has no more",
        why=_READ,
        fix="take it out, or use an older release",
        releases="all",
        evidence=_TABLES,
        check=_removed,
    ),
    Rule(
        id="flag-later",
        family="flags",
        severity=Severity.ERROR,
        what="a flag that comes with a later release",
        why=_READ,
        fix="take it out, or use a newer release",
        releases="all",
        evidence=_TABLES,
        check=_not_yet,
    ),
    Rule(
        id="flag-choice",
        family="flags",
        severity=Severity.ERROR,
        what="a value outside the flag's choices",
        why=_READ,
        fix="give one of the choices",
        releases="all",
        evidence=_TABLES,
        check=_choice,
    ),
    Rule(
        id="flag-value",
        family="flags",
        severity=Severity.ERROR,
        what="a value that is no number where the flag takes one",
        why=_READ,
        fix="give a number",
        releases="all",
        evidence=_TABLES,
        check=_type,
    ),
    Rule(
        id="flag-count",
        family="flags",
        severity=Severity.ERROR,
        what="too few or too many values behind a flag",
        why=_READ,
        fix="check the words around it: a variable may be empty",
        releases="all",
        evidence=_TABLES,
        check=_count,
    ),
    Rule(
        id="placeholder",
        family="flags",
        severity=Severity.WARNING,
        what="a value that nobody filled in",
        why="it is taken as it stands, and split at its blanks where it is not quoted",
        fix="put the real value in",
        releases="all",
        evidence="examples/multimodal/nvlm",
        check=_placeholder,
    ),
    Rule(
        id="literal-quotes",
        family="flags",
        severity=Severity.WARNING,
        what="a value that begins and ends with a quote character",
        why=("quotes inside an array element or a variable are characters, not quoting: the trainer reads them"),
        fix="quote the flag and its value as two words: --split 99,1,0",
        releases="all",
        evidence=("examples/llama/train_llama3_8b_h100_fp8.sh; --split happens to survive it, a path does not"),
        check=_quotes,
    ),
)
