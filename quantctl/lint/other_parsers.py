"""Flags as other parsers than Megatron's take them: ms-swift's and the embedded trainer's; what --spec names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

from quantctl.lint.arguments import is_unknown
from quantctl.lint.megatron_flags import Option, table

LOCAL, TE, LEGACY = "local", "transformer_engine", "legacy"
"""Whose layers are built."""


def of_spec(words: tuple[str, ...]) -> str | None:
    """Whose layers a spec of Megatron's own builds, by the names of its module and function."""
    text = " ".join(words)
    if not words or is_unknown(text):
        return None
    if "transformer_engine" in text or re.search(r"(^|_)te(_|$)", words[-1]):
        return TE
    if re.search(r"(^|_)local(_|$)", words[-1]):
        return LOCAL
    return TE if "mamba" in text or "hybrid" in text else None


def dashed(word: str) -> str:
    """ms-swift's flags have underscores where Megatron's have dashes; it takes both."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else word


@lru_cache(maxsize=4)
def swift_options(release: str) -> Mapping[str, Option]:
    """Megatron's options as ms-swift takes them: switches have a value, and its own choices are not known."""
    return {
        name: replace(
            option, nargs="*", choices=None, type=None, default="None" if option.is_switch else option.default
        )
        for name, option in table(release).items()
    }


def embedded_options() -> Mapping[str, Option]:
    """The options of `python -m quantctl.pretrain` in the same form."""
    from quantctl.pretrain.flags import FLAGS

    return {
        name: Option(
            name,
            0 if flag.type is bool else flag.nargs or 1,
            None if flag.type is bool else getattr(flag.type, "__name__", None),
            str(flag.default),
            None if flag.choices is None else tuple(map(str, flag.choices)),
        )
        for name, flag in FLAGS.items()
    }
