"""What rules about single flags share: which flags the release's parser knows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from quantctl.lint.arguments import Given, is_unknown
from quantctl.lint.case import Case
from quantctl.lint.megatron_flags import Option, holders
from quantctl.lint.program import EMBEDDED, GPT

# pretrain_gpt.py takes these where NVIDIA ModelOpt is installed (megatron/post_training/arguments.py)
MODELOPT = ("--export-", "--modelopt-enabled", "--finetune-", "--teacher-model-config", "--enable-gpt-oss",
             "--freeze-base-for-mtp", "--qad-train-target")  # fmt: skip

PLACEHOLDER = re.compile(r"<[A-Za-z][^<>]*>")

HARMLESS = ("-h", "--help")

MOST_STRANGE = 100
"""Options that are looked for in a fork's sources and in other releases."""


@lru_cache(maxsize=4)
def own_sources(root: Path) -> bytes:
    """The code in which a tree can define options of its own."""
    files = [*root.glob("*.py"), *(root / "megatron" / "training").rglob("*.py"),
             root / "megatron/core/transformer/transformer_config.py"]  # fmt: skip
    return b"\n".join(file.read_bytes() for file in files if file.is_file())


def of_a_fork(case: Case, name: str) -> bool:
    """Whether the tree in use defines the option: then it is the fork's, and no table knows it."""
    root = case.setting.root
    if root is None or case.command.program == EMBEDDED:
        return False
    code, field = own_sources(root), name.lstrip("-").replace("-", "_")
    named = any(f"{quote}{name}{quote}".encode() in code for quote in "'\"")
    # a field of a dataclass becomes an option, too; that of an option which a release dropped may have stayed
    return named or (not holders(name) and f"    {field}:".encode() in code)


def strange(case: Case) -> list[Given]:
    """Options that no table of the release has, each once; none where another parser reads them."""
    return [] if case.command.foreign else not_of_the_release(case)


def not_of_the_release(case: Case) -> list[Given]:
    """The same, whoever reads them."""
    if case.command.program not in (GPT, EMBEDDED):
        return []
    found = {
        one.name: one
        for one in case.arguments.given
        if one.option is None
        and not is_unknown(one.name)
        and one.name not in HARMLESS
        and not one.name.startswith(MODELOPT)
    }
    return list(found.values())


def unknown(case: Case) -> list[Given]:
    return [one for one in strange(case)[:MOST_STRANGE] if not of_a_fork(case, one.name)]


def elsewhere(case: Case, name: str) -> tuple[str, ...]:
    return () if case.command.program == EMBEDDED else holders(name)


def known(case: Case) -> Iterator[tuple[Given, Option]]:
    for one in case.arguments.given:
        if one.option is not None:
            yield one, one.option
