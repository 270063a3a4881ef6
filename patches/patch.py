"""What a patch is: plain data, so that listing and checking patches loads no syntax tree library.

Patterns are Python statements compared by structure; names in capitals stand for any expression and may be used in the
inserted code (see quantctl.tree.edit.pattern). ORIGINAL_STATEMENT in inserted code is the statement that was matched.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from enum import Enum

LAYERS = "megatron/core/tensor_parallel/layers.py"
ATTENTION = "megatron/core/transformer/dot_product_attention.py"


class Kind(Enum):
    """What an edit does with its anchor and its code. Counting finds what would stay unquantized."""

    REPLACE = "put code in place of the statement"
    AFTER = "insert code behind the statement"
    FIRST = "insert code as the function's first statement"
    LAST = "insert code as the function's last statement"
    PARAMETER = "add a parameter behind the last positional one"
    LIST_ELEMENT = "append an element to the list assigned to the name"
    RETURN_ELEMENT = "append an element to each returned tuple"
    ARGUMENT = "append an argument to the call of the callee"
    PRODUCTS = "count the matrix products"
    PRODUCTS_BEFORE = "count the matrix products in front of the call of"


@dataclass(frozen=True)
class Edit:
    """One change inside the function named `scope` (`Class.method` or `function`)."""

    kind: Kind
    scope: str
    anchor: str
    """The statement pattern, name or callee that is looked for; empty where the function itself is the anchor."""
    code: str
    """What is inserted."""
    _: KW_ONLY
    count: tuple[int, ...] = (1,)
    """How many matches are acceptable."""

    def __str__(self) -> str:
        return f"{self.scope}: {self.kind.value}" + (f" `{self.anchor}`" if self.anchor else "")


@dataclass(frozen=True)
class Either:
    """Edits of one purpose of which exactly one must fit: what releases write in different ways."""

    edits: tuple[Edit, ...]

    def __str__(self) -> str:
        return ", or ".join(map(str, self.edits))


@dataclass(frozen=True)
class Patch:
    """Code inserted into one file of a tree."""

    name: str
    file: str
    """Relative to the tree."""
    why: str
    releases: str
    """The megatron-core releases it was written for; its anchors decide whether it fits others."""
    mark: bytes
    """What a patched file holds and a stock one does not."""
    edits: tuple[Edit | Either, ...]
    header: str = ""
    """Comment and module-level constants, put below the file's imports."""
    _: KW_ONLY
    required: bool = True
    """The selectors do not work without it, so an anchor that does not match refuses the operation. A patch that is not
    required is left out where its file is missing, where it is not needed, and where it does not fit."""
    needed: bytes = b""
    """Regular expression (^ and $ match at lines) that a stock file matches if it needs the patch."""
    requires: tuple[str, bytes] | None = None
    """A file of the tree and what it must hold: what the inserted code relies on."""
    leaves_out: tuple[tuple[str, str], ...] = ()
    """By file and function or class: code that does not run where the inserted code returns early. It is left out only
    if it is a known release's own, with all that it uses of its file (quantctl.stock.releases)."""
    roles: tuple[str, ...] = ()
    """The selectors that it brings."""
    together: tuple[str, ...] = ()
    """Patches without which it must not be in the tree."""
    edition: bytes = b""
    """What a file patched by this edition holds, and one patched by an earlier one does not."""
    former: tuple[Edit | Either, ...] = ()
    """Edits of earlier editions, which trees may still hold in the place of today's."""
