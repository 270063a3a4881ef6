"""tree-sitter's grammar of bash."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from quantctl.errors import QuantctlError

if TYPE_CHECKING:
    from tree_sitter import Language, Node


@lru_cache(maxsize=1)
def _grammar() -> Language:
    try:
        import tree_sitter
        import tree_sitter_bash
    except ImportError as error:
        raise QuantctlError(
            f"scripts are read with tree-sitter, which is not installed ({error.name})",
            "pip install 'quantctl[lint]'; `quantctl lint -- COMMAND` does without it",
        ) from error

    return tree_sitter.Language(tree_sitter_bash.language())


def parse(text: str) -> Node:
    """The syntax tree of a script."""
    grammar = _grammar()
    import tree_sitter

    return tree_sitter.Parser(grammar).parse(text.encode("utf-8", "replace")).root_node


def errors(node: Node) -> list[int]:
    """The lines that the grammar could not read."""
    stack, found = [node], []
    while stack:
        here = stack.pop()
        if here.type == "ERROR" or here.is_missing:
            found.append(here.start_point[0] + 1)
        elif here.has_error:
            stack += here.children
    return sorted(set(found))
