"""Reading and rewriting selectors in source text: the literal's bytes and nothing else."""

from __future__ import annotations

import pytest

from quantctl.errors import QuantctlError
from quantctl.tree.selectors import locate, rewrite
from quantctl.tree.source import Source

USE = b"\ndef f():\n    return custom_quant_type_linear\n"

REWRITTEN = {
    "single quotes": (b"custom_quant_type_linear = 'none'\n", b"custom_quant_type_linear = 'mxfp8'\n"),
    "double quotes": (b'custom_quant_type_linear = "none"\n', b'custom_quant_type_linear = "mxfp8"\n'),
    "annotated": (b"custom_quant_type_linear: str = 'none'\n", b"custom_quant_type_linear: str = 'mxfp8'\n"),
    "comment behind": (b"custom_quant_type_linear = 'none'  # x\n", b"custom_quant_type_linear = 'mxfp8'  # x\n"),
    "odd spacing": (b"custom_quant_type_linear   =   'none'\n", b"custom_quant_type_linear   =   'mxfp8'\n"),
    "crlf": (b"a = 1\r\ncustom_quant_type_linear = 'none'\r\n", b"a = 1\r\ncustom_quant_type_linear = 'mxfp8'\r\n"),
    "lone carriage returns": (
        b"a = 1\rcustom_quant_type_linear = 'none'\r",
        b"a = 1\rcustom_quant_type_linear = 'mxfp8'\r",
    ),
    "mixed newlines": (
        b"a=1\r\nb=2\ncustom_quant_type_linear='none'\n",
        b"a=1\r\nb=2\ncustom_quant_type_linear='mxfp8'\n",
    ),
    "byte order mark": (
        b"\xef\xbb\xbfcustom_quant_type_linear = 'none'\n",
        b"\xef\xbb\xbfcustom_quant_type_linear = 'mxfp8'\n",
    ),
    "latin-1": (
        b"# coding: latin-1\nx = '\xe9'; custom_quant_type_linear = 'none'  # \xfc\n",
        b"# coding: latin-1\nx = '\xe9'; custom_quant_type_linear = 'mxfp8'  # \xfc\n",
    ),
    "utf-8 before it": (
        "x = 'é漢'; custom_quant_type_linear = 'none'\n".encode(),
        "x = 'é漢'; custom_quant_type_linear = 'mxfp8'\n".encode(),
    ),
    "form feed": (
        b"\x0ca = 1\n\x0ccustom_quant_type_linear = 'none'\n",
        b"\x0ca = 1\n\x0ccustom_quant_type_linear = 'mxfp8'\n",
    ),
    "two literals glued": (b"custom_quant_type_linear = 'no' 'ne'\n", b"custom_quant_type_linear = 'mxfp8'\n"),
    "name in a string": (
        b"doc = \"custom_quant_type_linear = 'none'\"\ncustom_quant_type_linear = 'none'\n",
        b"doc = \"custom_quant_type_linear = 'none'\"\ncustom_quant_type_linear = 'mxfp8'\n",
    ),
    "unknown old value": (b"custom_quant_type_linear = 'mxpf8'\n", b"custom_quant_type_linear = 'mxfp8'\n"),
    "no newline at the end": (b"custom_quant_type_linear = 'none'", b"custom_quant_type_linear = 'mxfp8'"),
}


@pytest.mark.parametrize(("before", "after"), REWRITTEN.values(), ids=REWRITTEN)
def test_rewritten(before, after):
    assert rewrite(Source(before, "f.py"), {"linear": "mxfp8"}) == after
    assert rewrite(Source(after, "f.py"), {"linear": "mxfp8"}) == after


UNTOUCHED = {
    "stock": b"import torch\n",
    "only in a string": b"x = \"custom_quant_type_linear = 'none'\"\n",
    "only in a comment": b"# custom_quant_type_linear = 'none'\n",
    "only in a function": b"def f():\n    custom_quant_type_linear = 'none'\n",
    "other file's selector": b"custom_quant_type_qk = 'none'\n",
}


@pytest.mark.parametrize("source", UNTOUCHED.values(), ids=UNTOUCHED)
def test_untouched(source):
    assert rewrite(Source(source, "f.py"), {"linear": "mxfp8"}) == source


REFUSED = {
    "assigned twice": (
        b"custom_quant_type_linear = 'none'\ncustom_quant_type_linear = 'mxfp8'\n",
        "2 times (lines 1, 2)",
    ),
    "not a string": (b"custom_quant_type_linear = None\n", "f.py:1: custom_quant_type_linear is not a plain string"),
    "an f-string": (b"custom_quant_type_linear = f'none'\n", "not a plain string"),
    "computed": (b"custom_quant_type_linear = 'no' + 'ne'\n", "not a plain string"),
    "not python": (b"custom_quant_type_linear = 'none\n", "f.py is not valid Python"),
    "null bytes": (b"custom_quant_type_linear = 'none'\n\0", "f.py is not valid Python"),
}


@pytest.mark.parametrize(("source", "reason"), REFUSED.values(), ids=REFUSED)
def test_refused(source, reason):
    with pytest.raises(QuantctlError) as refusal:
        rewrite(Source(source, "f.py"), {"linear": "mxfp8"})
    assert reason in refusal.value.message
    assert refusal.value.hint


def test_unknown_spec_is_refused():
    with pytest.raises(QuantctlError, match="'mxpf8' is not a format spec: unknown format"):
        rewrite(Source(b"custom_quant_type_linear = 'none'\n", "f.py"), {"linear": "mxpf8"})


def test_located_where_it_stands():
    (place,) = locate(Source(b"\ncustom_quant_type_linear = 'mxfp8'\n" + USE, "f.py")).values()
    assert (place.role, place.value, place.lines, place.uses) == ("linear", "mxfp8", "2", 1)
