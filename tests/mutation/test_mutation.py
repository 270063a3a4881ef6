"""Mutated Megatron files pushed through the editor: refused, or patched without losing or claiming anything.

A few hundred seeded mutants by default; `make mutation` runs ten thousand (MUTANTS=10000). Each mutant is a real file,
or the classes of it that the editor looks at, with one to four small accidents: what merges, half-done edits, other
formatters and other editors do to a file. Every seed can be run on its own: MUTANTS=1 FIRST_SEED=1234.
"""

from __future__ import annotations

import ast
import io
import os
import random
import re
import tokenize
from collections import Counter
from collections.abc import Callable
from functools import lru_cache

import pytest
from excerpts import excerpt

from quantctl.errors import QuantctlError
from quantctl.patches.patch import Either, Kind, Patch
from quantctl.patches.registry import PATCHES
from quantctl.tree.edit.insert import insert
from quantctl.tree.selectors import ATTENTION, LAYERS, SELECTORS, fork_of, locate, rewrite
from quantctl.tree.source import source_of

MUTANTS = int(os.environ.get("MUTANTS", "350"))
FIRST_SEED = int(os.environ.get("FIRST_SEED", "0"))
CHUNKS = min(MUTANTS, 20)
RELEASES = ("0.12.3", "0.16.1", "0.19.0")
REQUIRED = tuple(patch for patch in PATCHES if patch.required)
NEAR = re.compile(
    r"matmul|bmm|quant_type|def |class |return |args = |_forward_impl|wgrad_compute\(|grad_bias|^import|\]"
)


# -- what is mutated --------------------------------------------------------------------------------------------------


def with_fork(text: str, file: str) -> str:
    """The stock products wrapped in the chains of a fork."""
    statement = {
        LAYERS: r"output = torch\.(matmul)\(.*\)|grad_input = grad_output\.(matmul)\(weight\)",
        ATTENTION: r"context = torch\.(bmm)\(.*\)",
    }[file]

    def chain(found: re.Match[str]) -> str:
        space, whole = found.group(1), found.group(2)
        return (
            f"{space}custom_quant_type = 'hifp8'\n"
            f"{space}if custom_quant_type == 'hifp8':\n{space}    y = hifp_mm(a, b)\n"
            f'{space}elif custom_quant_type == "mxfp8":\n{space}    y = mxfp_mm(a, b)\n{space}else:\n{space}    {whole}'
        )

    changed = re.sub(rf"^( *)({statement})$", chain, text, flags=re.MULTILINE)
    assert changed != text
    return changed


@pytest.fixture(scope="module")
def corpus(megatron_tree) -> Callable[[random.Random, bool], tuple[Patch, str]]:
    """Function that draws a patch and a text of the file that it is for, a fork's or a stock one."""

    @lru_cache(maxsize=64)
    def read(release: str, file: str, whole: bool) -> str:
        text = (megatron_tree(release) / file).read_text()
        return text if whole else excerpt(text)

    def draw(rng: random.Random, fork: bool) -> tuple[Patch, str]:
        # the linear patch takes ten times as long as the others
        patch = rng.choices(REQUIRED, [5 if p.file == ATTENTION else 2 for p in REQUIRED])[0]
        while fork and patch.file not in (LAYERS, ATTENTION):
            patch = rng.choice(REQUIRED)
        text = read(rng.choice(RELEASES), patch.file, rng.random() < 0.05)
        return patch, with_fork(text, patch.file) if fork else text

    return draw


# -- accidents: each takes lines (with their newlines) and may change them in place ------------------------------------

Lines = list[str]


def some_line(rng: random.Random, lines: Lines) -> int:
    """A line, more often than not one that the editor cares about."""
    near = [number for number, line in enumerate(lines) if NEAR.search(line)]
    return rng.choice(near) if near and rng.random() < 0.7 else rng.randrange(len(lines))


def delete(rng: random.Random, lines: Lines) -> None:
    at = some_line(rng, lines)
    del lines[at : at + rng.choice((1, 1, 1, 2, 5))]


def duplicate(rng: random.Random, lines: Lines) -> None:
    at = some_line(rng, lines)
    size = rng.choice((1, 1, 2, 8, 40))
    lines[at:at] = lines[at : at + size]


def swap(rng: random.Random, lines: Lines) -> None:
    one, two = some_line(rng, lines), some_line(rng, lines)
    lines[one], lines[two] = lines[two], lines[one]


def rename(rng: random.Random, lines: Lines) -> None:
    names = re.findall(r"[A-Za-z_]\w+", lines[some_line(rng, lines)])
    if names:
        old, new = rng.choice(names), rng.choice(("renamed", "x", "output", "weight", "custom_quant_type", "torch"))
        first = rng.randrange(len(lines)) if rng.random() < 0.5 else 0
        lines[first:] = [re.sub(rf"\b{old}\b", new, line) for line in lines[first:]]


def reindent(rng: random.Random, lines: Lines) -> None:
    at = some_line(rng, lines)
    by = rng.choice((" ", "    ", "\t", "\x0c"))
    for number in range(at, min(len(lines), at + rng.choice((1, 1, 3, 30)))):
        lines[number] = by + lines[number] if rng.random() < 0.5 else lines[number].removeprefix("    ")


def tabs(rng: random.Random, lines: Lines) -> None:
    lines[:] = [re.sub(r"^( {4})+", lambda found: "\t" * (len(found.group()) // 4), line) for line in lines]


def comment(rng: random.Random, lines: Lines) -> None:
    at = some_line(rng, lines)
    text = rng.choice(("# é", "# custom_quant_type = 'mxfp8'", "# custom_quant_type_linear", "# \x0c", "#"))
    if rng.random() < 0.5:
        lines.insert(at, rng.choice(("", " " * 8, "\t")) + text + "\n")
    else:
        body = lines[at].rstrip("\r\n")
        lines[at] = body + "  " + text + lines[at][len(body) :]


def truncate(rng: random.Random, lines: Lines) -> None:
    at = some_line(rng, lines)
    del lines[at + 1 :]
    lines[at] = lines[at][: rng.randrange(len(lines[at]) + 1)]


def literal(rng: random.Random, lines: Lines) -> None:
    at = some_line(rng, lines)
    new = rng.choice(("0.0", "None", "'é'", "'custom_quant_type'", 'f"{x}"', "'none'", "b'x'", "('mx' 'fp8')", "1"))
    lines[at] = re.sub(r"\b\d[\d.]*|'[^'\n]*'|\bNone\b|\bTrue\b", lambda _: new, lines[at], count=1)


def newlines(rng: random.Random, lines: Lines) -> None:
    new = rng.choice(("\r\n", "\r\n", "\r", "\n\n"))
    part = range(len(lines)) if rng.random() < 0.6 else [some_line(rng, lines)]
    for number in part:
        lines[number] = lines[number].rstrip("\r\n") + new


def last_newline(rng: random.Random, lines: Lines) -> None:
    lines[-1] = lines[-1].rstrip("\r\n") + rng.choice(("", "", "  ", "\\\n", "\n\n\n", "\x1a"))


def join(rng: random.Random, lines: Lines) -> None:
    at = some_line(rng, lines)
    if at + 1 < len(lines):
        separator = rng.choice(("; ", " ", " \\\n", "\n\n", ";"))
        lines[at : at + 2] = [lines[at].rstrip("\r\n") + separator + lines[at + 1].lstrip()]


def drop_token(rng: random.Random, lines: Lines) -> None:
    at = some_line(rng, lines)
    tokens = list(re.finditer(r"\w+|[^\w\s]", lines[at]))
    if tokens:
        gone = rng.choice(tokens)
        lines[at] = lines[at][: gone.start()] + rng.choice(("", "", gone.group() * 2)) + lines[at][gone.end() :]


def remains(rng: random.Random, lines: Lines) -> None:
    """What an earlier patch, a fork or a merge leaves behind."""
    text = rng.choice(
        (
            "custom_quant_type_linear = 'none'",
            "custom_quant_type_qk = 'mxfp8'",
            "custom_quant_type = 'mxfp8'",
            "<<<<<<< HEAD",
            "def forward(self, *args, **kwargs): return self.stock(*args, **kwargs)",
            "from __future__ import annotations",
            "if True: output = torch.matmul(total_input, weight.t())",
            "output = torch.matmul(total_input, weight.t()); y = 1",
            "context = torch.bmm(attention_probs, value.transpose(0, 1))",
        )
    )
    at = some_line(rng, lines)
    space = re.match(r"[ \t]*", lines[at])
    lines.insert(at, (space.group() if space and rng.random() < 0.8 else "") + text + "\n")


ACCIDENTS = (delete, duplicate, swap, rename, reindent, tabs, comment, truncate, literal, newlines, last_newline, join)
ACCIDENTS += (drop_token, remains)


def encoded(rng: random.Random, text: str) -> bytes:
    kind = rng.choices(("utf-8", "utf-8-sig", "latin-1", "undeclared", "utf-16"), (40, 3, 4, 1, 1))[0]
    if kind == "latin-1":
        return ("# coding: latin-1\n" + text).encode("latin-1", "replace")
    if kind == "undeclared":
        return text.encode("latin-1", "replace") + b"# \xe9\n"
    return text.encode(kind, "replace")


def is_python(raw: bytes) -> bool:
    try:
        compile(raw, "mutant", "exec")
    except (SyntaxError, ValueError):
        return False
    return True


def mutant(rng: random.Random, text: str) -> bytes:
    """Most that are no Python any more are thrown away: they all end at the same line of the editor."""
    for attempt in range(8):
        lines = text.splitlines(keepends=True)
        for accident in rng.choices(ACCIDENTS, k=rng.choice((1, 1, 2, 3, 4))):
            accident(rng, lines)
            lines[:] = lines or ["\n"]
        raw = encoded(rng, "".join(lines))
        if attempt == 0 and rng.random() < 0.1:
            break
        if is_python(raw):
            break
    return raw


# -- what must hold ---------------------------------------------------------------------------------------------------


def edits_of(patch: Patch):
    for edit in patch.edits:
        yield from edit.edits if isinstance(edit, Either) else (edit,)


def template_lines(patch: Patch) -> re.Pattern[str]:
    """The lines that the patch may add; a wildcard of it stands for anything."""
    lines = {line.strip() for edit in edits_of(patch) for line in edit.code.splitlines()}
    lines |= {line.strip() for line in patch.header.splitlines()}
    patterns = [re.sub(r"\b[A-Z]{1,6}\b", ".+", re.escape(line)) for line in lines if line != "ORIGINAL_STATEMENT"]
    return re.compile("|".join(patterns))


def is_extended(old: str, new: str, patch: Patch) -> bool:
    """Whether `new` is `old` with an inserted parameter, argument or element."""
    extending = (Kind.PARAMETER, Kind.LIST_ELEMENT, Kind.RETURN_ELEMENT, Kind.ARGUMENT)
    return any(
        # spaces and commas belong to the list that was extended
        re.sub(r"[ ,]", "", new[: at.start()] + new[at.end() :]) == re.sub(r"[ ,]", "", old)
        for edit in edits_of(patch)
        if edit.kind in extending
        for at in re.finditer(re.escape(edit.code), new)
    )


def check_lines(raw: bytes, patched: bytes, patch: Patch) -> None:
    """Every line is still there, in order and with its newline; lines between them are the patch's."""
    encoding = tokenize.detect_encoding(io.BytesIO(raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n")).readline)[0]
    rest = patched.splitlines(keepends=True)[::-1]
    extra: list[bytes] = []
    for line in raw.splitlines(keepends=True):
        while rest:
            candidate = rest.pop()
            # a statement that moved into a branch is indented deeper, nothing else may differ
            if candidate == line or (candidate.endswith(line.lstrip(b" \t\x0c")) and candidate.strip() == line.strip()):
                break
            old, new = line.decode(encoding).strip(), candidate.decode(encoding).strip()
            if is_extended(old, new, patch) or (new == old and not line.endswith((b"\n", b"\r"))):
                break  # an item more, or lines behind what was the last one
            if rest and is_extended(old, f"{new} {rest[-1].decode(encoding).strip()}", patch):
                rest.pop()  # the item stands on the next line, with what stood behind the last one
                break
            extra.append(candidate)
        else:
            raise AssertionError(f"a line is gone or changed: {line!r}")
    allowed = template_lines(patch)
    for line in [*extra, *rest]:
        text = line.decode(encoding).strip()
        assert allowed.fullmatch(text) or is_extended("", text, patch), f"neither the file's nor the patch's: {line!r}"


class Unpatched(ast.NodeTransformer):
    """Takes the inserted code out of a syntax tree again: what `none` computes must be the original."""

    def __init__(self, patch: Patch) -> None:
        self.patch = patch
        self.scope: list[str] = []

    def visit_Module(self, node: ast.Module) -> ast.AST:
        for selector in SELECTORS.values():
            if selector.variable in self.patch.header:
                line = f"{selector.variable} = {selector.default!r}"
                del node.body[next(i for i, part in enumerate(node.body) if ast.unparse(part).startswith(line))]
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self.scope.append(node.name)
        node = self.generic_visit(node)  # type: ignore[assignment]
        self.scope.pop()
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        path = ".".join((*self.scope, node.name))
        for edit in edits_of(self.patch):
            if edit.scope == path and edit.kind is Kind.PARAMETER:
                assert node.args.args.pop().arg == edit.code.split(":")[0].split("=")[0]
                node.args.defaults.pop()
        self.scope.append(node.name)
        node = self.generic_visit(node)  # type: ignore[assignment]
        self.scope.pop()
        return node

    def edits(self, kind: Kind):
        return (edit for edit in edits_of(self.patch) if edit.kind is kind and edit.scope == ".".join(self.scope))

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt] | None:
        node = self.generic_visit(node)  # type: ignore[assignment]
        test = ast.unparse(node.test)
        if re.fullmatch(r"(ctx\.quant_type|custom_quant_type_\w+) == 'none'", test):
            return node.body
        tag = "hasattr(self, 'output_layer')"
        unless = r"(ctx\.quant_type|custom_quant_type_\w+) != 'none'|custom_attention_impl != 'unfused'"
        if re.fullmatch(unless, test) or (test == tag and "is_lm_head" in ast.unparse(node.body[0])):
            return None
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        target = ast.unparse(node.targets[0])
        if target in ("ctx.quant_layer", "ctx.quant_site", "ctx.quant_type"):
            return None
        for edit in self.edits(Kind.LIST_ELEMENT):
            if target == edit.anchor and isinstance(node.value, ast.List):
                assert ast.unparse(node.value.elts.pop()) == edit.code
        return self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> ast.AST:
        for edit in self.edits(Kind.RETURN_ELEMENT):
            if isinstance(node.value, ast.Tuple) and node.value.elts:
                assert ast.unparse(node.value.elts.pop()) == edit.code
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        for edit in self.edits(Kind.ARGUMENT):
            if ast.unparse(node.func) == edit.anchor:
                last = node.keywords.pop()
                assert f"{last.arg}={ast.unparse(last.value)}" == edit.code
        return self.generic_visit(node)


UNREADABLE = ("cannot be parsed", "is not valid Python", "does not compile", "does not survive parsing")


def reason(refusal: QuantctlError, patch: Patch) -> str:
    """The refusal without what differs from file to file."""
    if general := next((text for text in UNREADABLE if text in refusal.message), None):
        return general
    last = refusal.message.splitlines()[-1].replace(patch.file, "").strip(" :")
    return re.sub(r"\d+|'[^']*'", "N", last)[:90]


def outcome_of_insertion(raw: bytes, patch: Patch) -> str:
    try:
        patched = insert(raw, patch.file, patch.edits, patch.header)
    except QuantctlError as refusal:
        return f"refused: {reason(refusal, patch)}"
    compile(patched, patch.file, "exec")
    check_lines(raw, patched, patch)
    left = Unpatched(patch).visit(ast.parse(patched))
    assert ast.unparse(left) == ast.unparse(ast.parse(raw)), "without the inserted code it is another program"
    header = {role: selector for role, selector in SELECTORS.items() if selector.variable in patch.header}
    values = {role: selector.choices[-1] if selector.choices else "hifp8" for role, selector in header.items()}
    try:
        changed = rewrite(source_of(patched, patch.file), values)
    except QuantctlError as refusal:
        return f"patched, not set: {reason(refusal, patch)}"
    located = locate(source_of(changed, patch.file))
    assert {role: located[role].value for role in values} == values
    assert not any(located[role].fork for role in values)
    expected = patched
    for role, selector in header.items():
        literal = f"{selector.variable} = '{selector.default}'".encode()
        assert expected.count(literal) >= 1
        expected = expected.replace(literal, f"{selector.variable} = '{values[role]}'".encode(), 1)
    assert changed == expected
    defaults = {role: selector.default for role, selector in header.items()}
    assert rewrite(source_of(changed, patch.file), defaults) == patched
    return "patched and set"


def outcome_of_a_fork(raw: bytes, patch: Patch) -> str:
    source = source_of(raw, patch.file)
    role = "linear" if patch.file == LAYERS else "pv"
    try:
        changed = rewrite(source, {role: "mxfp8"})
        located = locate(source_of(changed, patch.file))
    except QuantctlError as refusal:
        return f"refused: {reason(refusal, patch)}"
    if role not in located:
        assert changed == raw
        return "no fork's any more" if not fork_of(source) else "the role is gone"
    assert located[role].value == "mxfp8"
    assert located[role].fork or b"custom_quant_type_linear" in raw
    # byte by byte: what differs is the literal of an assignment to the variable
    assigned = re.compile(rb"""(custom_quant_type\w*\s*=[\s\\(]*)(?:[ru]?(?:'[^'\n]*'|"[^"\n]*")\s*?)+""")
    assert assigned.sub(rb"\1_", changed) == assigned.sub(rb"\1_", raw)
    assert changed.count(b"\n") == raw.count(b"\n")
    assert rewrite(source_of(changed, patch.file), {role: "mxfp8"}) == changed
    return "set"


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_mutants(corpus, chunk, record_property):
    outcomes: Counter[str] = Counter()
    for seed in range(FIRST_SEED + chunk, FIRST_SEED + MUTANTS, CHUNKS):
        rng = random.Random(seed)
        fork = rng.random() < 0.25
        patch, text = corpus(rng, fork)
        raw = mutant(rng, text)
        try:
            outcome = outcome_of_a_fork(raw, patch) if fork else outcome_of_insertion(raw, patch)
        except Exception as error:
            raise AssertionError(f"seed {seed} ({patch.name}): {type(error).__name__}: {error}") from error
        outcomes[f"{'fork' if fork else 'stock'}: {outcome}"] += 1
    for outcome, count in outcomes.items():
        record_property(outcome, count)
    # a mutant that was hit hard is refused; that most are would mean that nothing is tested
    assert sum(count for outcome, count in outcomes.items() if "set" in outcome.split(": ")[1]) or MUTANTS < 50
