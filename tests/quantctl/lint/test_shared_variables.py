"""What a function finds in its module's variables when it is called for the first time."""

from __future__ import annotations

import ast

import pytest

from quantctl.lint.start.shared import at_first
from quantctl.lint.start.syntax import written

MODULE = """
{outside}

def begin():
    global _GROUP
    if _GROUP is None:
        _GROUP = make()

{other}
"""


@pytest.mark.parametrize(
    ("outside", "other", "known"),
    [
        ("_GROUP = None", "", "None"),
        ("_GROUP: object = 3", "", "3"),
        ("_GROUP = None", "def end():\n    global _GROUP\n    _GROUP = None", "None"),
        ("_GROUP = None", "def end():\n    _GROUP = 4", "None"),
        ("_GROUP = None", "def other():\n    global _GROUP\n    _GROUP = 4", ""),
        ("_GROUP = None", "def other():\n    global _GROUP\n    for _GROUP in (1, 2): pass", ""),
        ("_GROUP = None", "class A:\n    def other(self):\n        global _GROUP\n        _GROUP = self", ""),
        ("_GROUP = None\nif x:\n    _GROUP = 4", "", ""),
        ("_GROUP = []", "", ""),
        ("", "", ""),
    ],
)
def test_what_a_module_gave_a_variable(outside, other, known):
    found = at_first(ast.parse(MODULE.format(outside=outside, other=other)), "begin")
    assert found == ({"_GROUP": written(known)} if known else {})
