"""Whatever stands around a selector: the literal's bytes change and no others, or the file is refused as it is.

Sources are put together from lines that people write, with the newlines, encodings and layouts that files come in. The
place of the literal is known from the construction, so the expected bytes do not depend on the code under test.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from quantctl.errors import QuantctlError
from quantctl.spec import canonical
from quantctl.tree.selectors import ATTENTION, LAYERS, SELECTORS, fork_of, locate, rewrite
from quantctl.tree.source import Source

# database=None: what CI finds is printed with its bytes, and a second run must not depend on a first
quick = settings(max_examples=400, deadline=None, database=None, suppress_health_check=list(HealthCheck))

NAME = "custom_quant_type_linear"
SPECS = st.sampled_from(
    ["none", "bf16", "mxfp8", "mxfp4", "hifp8", "mxfp8:scale=floor", "mxfp8:round=away,bwd=high_precision"]
)
FORMATS = st.sampled_from(["none", "mxfp8", "mxfp4", "hifp8"])
NEWLINES = st.sampled_from(["\n", "\r\n", "\r"])

# whole statements without a newline of their own; é is in every encoding below
AROUND = (
    "import torch",
    "x = 1; y = 2",
    "# custom_quant_type_linear = 'mxfp8'",
    "\tx = 'a tab in front'"[1:],
    "doc = \"custom_quant_type_linear = 'none'\"",
    'doc = """one line: custom_quant_type_linear = \'none\' """',
    "text = 'é' + \"é\"  # é",
    "\x0c",
    "",
    "   ",
    "\x0cy = 3",
    "z = [1,\\",
    "     2]",
    "@decorated",
    "def f(): return custom_quant_type_linear",
    "class ColumnParallelLinear: pass",
    "class ColumnParallelLinear: custom_quant_type_linear = 'in a class'",
    "def g():",
    "    def h():",
    "\treturn 'custom_quant_type_linear'",
    "    '''a docstring: custom_quant_type_linear = 'x' '''",
    "    return 1",
    "if True:",
    "    pass",
    "x = f'{custom_quant_type_linear}'",
    "x = ('custom_quant_type_linear'",
    "     'é')",
    "type_custom_quant_type_linear = 'other'",
    "else_custom_quant_type_linear_ = 'other'",
    "é = 1",
)

# how an assignment is written; {} is the literal
WRITTEN = (
    "custom_quant_type_linear = {}",
    "custom_quant_type_linear={}",
    "custom_quant_type_linear: str = {}",
    "custom_quant_type_linear = ({})",
    "custom_quant_type_linear = (  {}  )  # é 'x'",
    "custom_quant_type_linear = {}  # custom_quant_type_linear = 'mxfp4'",
    "x = 'é'; custom_quant_type_linear = {}; y = \"é\"",
    "other = custom_quant_type_linear = {}",
    "custom_quant_type_linear \\\n  = \\\n  {}",
    "custom_quant_type_linear = (\n\t{}\n  # é\n)",
    "custom_quant_type_linear = {};",
)

LITERALS = (
    "'{}'",
    '"{}"',
    "u'{}'",
    "r'{}'",
    "'''{}'''",
    '"""{}"""',
    "'' '{}'",
    "'{}' \"\"",
)

CODINGS = (("utf-8", ""), ("utf-8-sig", ""), ("utf-8", "# -*- coding: utf-8 -*-"), ("latin-1", "# coding: latin-1"))
CODINGS += (("cp1252", "# vim: set fileencoding=cp1252 :"), ("iso8859-15", "#!/usr/bin/python\n# coding: iso8859-15"))
CODINGS += (("utf-8-sig", "# coding: utf-8"), ("gbk", "# coding: gbk"))


@dataclass(frozen=True)
class Built:
    """A source and where its literal stands."""

    before: bytes
    literal: bytes
    after: bytes
    value: str

    @property
    def raw(self) -> bytes:
        return self.before + self.literal + self.after

    def with_value(self, value: str) -> bytes:
        quote = b'"' if self.literal.endswith(b'"') else b"'"
        return self.before + quote + value.encode() + quote + self.after

    @property
    def is_python(self) -> bool:
        try:
            compile(self.raw, "f.py", "exec")
        except (SyntaxError, ValueError):
            return False
        return True


def ended(draw: st.DrawFn, text: str) -> str:
    """Every line of `text` with a newline of its own choice."""
    return "".join(line + draw(NEWLINES) for line in text.split("\n"))


@st.composite
def sources(draw: st.DrawFn) -> Built:
    encoding, cookie = draw(st.sampled_from(CODINGS))
    bom, encoding = (b"\xef\xbb\xbf", "utf-8") if encoding == "utf-8-sig" else (b"", encoding)
    lines = st.lists(st.sampled_from(AROUND), max_size=6)
    head = ended(draw, cookie) if cookie else ""
    head += "".join(ended(draw, line) for line in draw(lines))
    left, _, right = draw(st.sampled_from(WRITTEN)).partition("{}")
    head += "".join(ended(draw, line) for line in left.split("\n")[:-1]) + left.split("\n")[-1]
    tail = right.replace("\n", draw(NEWLINES)) + draw(NEWLINES)
    tail += "".join(ended(draw, line) for line in draw(lines))
    if draw(st.booleans()):
        tail = tail.rstrip("\r\n")
    value = draw(SPECS)
    literal = draw(st.sampled_from(LITERALS)).format(value)
    return Built(bom + head.encode(encoding), literal.encode(), tail.encode(encoding), value)


def rewritten(built: Built, file: str, role: str, value: str) -> bytes | None:
    """The new bytes, or None if the file was refused."""
    try:
        return rewrite(Source(built.raw, file), {role: value})
    except QuantctlError:
        return None


@quick
@given(sources(), SPECS)
@example(Built(b"\xef\xbb\xbf", b"'none'", b"", "none"), "mxfp8")
def test_a_patched_files_selector(built, value):
    after = rewritten(built, "f.py", "linear", value)
    if not built.is_python:
        assert after is None
        return
    if after is None:
        return
    wanted = canonical(value, "linear")
    if "linear" not in locate(Source(built.raw, "f.py")):
        assert after == built.raw
        return
    assert after == (built.raw if built.value == wanted else built.with_value(wanted))
    assert locate(Source(after, "f.py"))["linear"].value == wanted
    assert rewrite(Source(after, "f.py"), {"linear": value}) == after
    if built.literal in (f"'{built.value}'".encode(), f'"{built.value}"'.encode()) and built.value != "bf16":
        back = canonical(built.value, "linear")
        if back == built.value:
            assert rewrite(Source(after, "f.py"), {"linear": back}) == built.raw


@quick
@given(st.data())
def test_plain_layouts_are_never_refused(data):
    """Valid lines at the top level, one assignment: set must work, whatever the newlines and the encoding."""
    safe = [line for line in AROUND if not line.startswith((" ", "\t", "@", "z = [", "x = (", "def g", "if ", "type_"))]
    encoding, cookie = data.draw(st.sampled_from(CODINGS[:1] + CODINGS[2:6]))
    lines = st.lists(st.sampled_from(safe), max_size=5)
    newline = st.sampled_from(["\n", "\r\n"])
    above, below = ("".join(line + data.draw(newline) for line in data.draw(lines)) for _ in range(2))
    left, _, right = data.draw(st.sampled_from(WRITTEN)).partition("{}")
    value = data.draw(SPECS)
    literal = data.draw(st.sampled_from(LITERALS)).format(value).encode()
    head = (cookie + "\n" if cookie else "") + above + left
    built = Built(head.encode(encoding), literal, (right + data.draw(newline) + below).encode(encoding), value)
    assert built.is_python
    wanted = data.draw(SPECS)
    after = rewrite(Source(built.raw, "f.py"), {"linear": wanted})
    wanted = canonical(wanted, "linear")
    assert after == (built.raw if value == wanted else built.with_value(wanted))


FORK = """class A:{n}{t}@staticmethod{n}{t}def forward(ctx, a, b):{n}{t}{t}{assignment}{n}\
{t}{t}if custom_quant_type == 'mxfp8':{n}{t}{t}{t}y = mxfp_matmul(a, b, 'é'){n}\
{t}{t}elif custom_quant_type in ('hifp8', "mxfp4"):{n}{t}{t}{t}y = other(a, b){n}\
{t}{t}else:{n}{t}{t}{t}y = torch.matmul(a, b){n}{t}{t}return y{n}"""


@quick
@given(st.data())
def test_a_forks_selectors(data):
    """Several literals in duplicated classes: all of them, and nothing else."""
    encoding, cookie = data.draw(st.sampled_from(CODINGS))
    bom, encoding = (b"\xef\xbb\xbf", "utf-8") if encoding == "utf-8-sig" else (b"", encoding)
    old, new = data.draw(FORMATS), data.draw(FORMATS)
    tab = data.draw(st.sampled_from(["    ", "\t", " "]))
    written = [form.replace(NAME, "custom_quant_type") for form in WRITTEN if "\n" not in form]
    parts = [bom + (cookie + "\n" if cookie else "").encode()]
    expected = list(parts)
    for _ in range(data.draw(st.integers(1, 3))):
        newline = data.draw(NEWLINES)
        literal = data.draw(st.sampled_from(LITERALS)).format(old)
        form = data.draw(st.sampled_from(written))
        quote = literal[-1]
        canonical_literal = literal if old == new else f"{quote}{new}{quote}"
        for found, text in ((parts, literal), (expected, canonical_literal)):
            found.append(FORK.format(n=newline, t=tab, assignment=form.format(text)).encode(encoding))
    raw = b"".join(parts)
    compile(raw, "f.py", "exec")
    assert rewrite(Source(raw, LAYERS), {"linear": new}) == b"".join(expected)
    assert locate(Source(b"".join(expected), LAYERS))["linear"].value == new


@quick
@given(st.binary(max_size=60), st.binary(max_size=60), st.sampled_from([LAYERS, ATTENTION, "f.py"]))
@example(b"# coding: utf-7\n", b"\n", "f.py")
@example(b"# coding: punycode\n", b"\n", "f.py")
@example(b"# coding: rot13\n", b"\n", LAYERS)
@example(b"# coding: utf-16\n", b"\n", "f.py")
@example(b"-" * 20_000, b"\n", "f.py")
@example(b"x = " + b"(" * 3_000, b"\n", LAYERS)
@example(b"x = 1" + b" + 1" * 20_000 + b"\n", b"\n", LAYERS)
@example(b"x = 1" + b" + 1" * 700 + b"\n", b"\n", LAYERS)
@example(b"return 1\n", b"\n", LAYERS)
@example(b"\xff\xfe", b"\n", "f.py")
def test_any_bytes_around_it(before, after, file):
    raw = before + b"custom_quant_type_linear = custom_quant_type = 'none'" + after
    for source in (Source(raw, file), Source(before, file)):
        with suppress(QuantctlError):
            result = rewrite(source, {"linear": "mxfp8"})
            compile(result, file, "exec")
            found = locate(Source(result, file))
            assert "linear" not in found or found["linear"].value == "mxfp8" or fork_of(source)


@quick
@given(st.text(max_size=30), st.sampled_from(sorted(SELECTORS)))
def test_any_text_as_a_value(text, role):
    """Only values that the selector takes are ever written."""
    selector = SELECTORS[role]
    source = Source(f"{selector.variable} = {selector.default!r}\n".encode(), "f.py")
    try:
        after = rewrite(source, {role: text})
    except QuantctlError:
        return
    assert after == f"{selector.variable} = {selector.canonical(text)!r}\n".encode()
