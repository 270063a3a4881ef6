"""Patches put into files as editors leave them."""

from __future__ import annotations

import pytest

from quantctl.patches.registry import PATCHES
from quantctl.tree.edit.insert import AnchorError, insert

MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_a_byte_order_mark_stays_the_only_one(megatron_tree, newline):
    patch = next(patch for patch in PATCHES if patch.name == "attention")
    stock = (megatron_tree("0.16.1") / patch.file).read_bytes()
    patched = insert(stock, patch.file, patch.edits, patch.header)
    with_mark = insert(MARK + stock.replace(b"\n", newline), patch.file, patch.edits, patch.header)
    assert with_mark == MARK + patched.replace(b"\n", newline)


def test_a_function_on_one_line_is_refused():
    patch = next(patch for patch in PATCHES if patch.name == "fused_attention")
    one_line = b"import torch\n\n\nclass DotProductAttention:\n    def forward(self, *args): return self.stock(*args)\n"
    with pytest.raises(AnchorError, match=r"DotProductAttention\.forward"):
        insert(one_line, patch.file, patch.edits, patch.header)
