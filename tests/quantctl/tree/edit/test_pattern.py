"""Patterns match by structure."""

from __future__ import annotations

import libcst as cst
import pytest

from quantctl.tree.edit.pattern import match

CASES = {
    "same": ("y = f(x)", "y = f(x)", {}),
    "wildcard": ("y = f(X)", "y = f(a.b(c))", {"X": "a.b(c)"}),
    "layout and comments": ("y = f(X, k=1)", "y = f(\n    a,  # first\n    k = 1,\n)", {"X": "a"}),
    "same wildcard twice": ("y = X + X", "y = a + a", {"X": "a"}),
    "same wildcard, other values": ("y = X + X", "y = a + b", None),
    "other target": ("y = f(X)", "z = f(a)", None),
    "more arguments": ("y = f(X)", "y = f(a, b)", None),
    "other keyword": ("y = f(k=1)", "y = f(j=1)", None),
    "string quotes": ("y = 'a'", 'y = "a"', {}),
    "number is not string": ("y = 1", "y = '1'", None),
    "two statements on a line": ("y = f(X)", "y = f(a); z = 1", None),
}


@pytest.mark.parametrize(("pattern", "code", "bindings"), CASES.values(), ids=CASES)
def test_match(pattern, code, bindings):
    assert match(pattern, cst.parse_statement(code)) == bindings
