"""Patches put into files as editors leave them."""

from __future__ import annotations

import pytest

from quantctl.patches.registry import PATCHES
from quantctl.tree.edit.insert import insert

MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_a_byte_order_mark_stays_the_only_one(megatron_tree, newline):
    patch = next(patch for patch in PATCHES if patch.name == "attention")
    stock = (megatron_tree("0.16.1") / patch.file).read_bytes()
    patched = insert(stock, patch.file, patch.edits, patch.header)
    with_mark = insert(MARK + stock.replace(b"\n", newline), patch.file, patch.edits, patch.header)
    assert with_mark == MARK + patched.replace(b"\n", newline)
