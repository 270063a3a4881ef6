"""Python's expressions and statements as plain data: lists with their kind in front."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

Code = list[Any]


CHANGES = ("append", "extend", "pop", "remove", "insert", "add", "update", "clear", "sort", "reverse", "setdefault")
"""Methods that change what they are called of."""
_SAYS = ("print", "warn", "log", "_print", "deprecat")


UNKNOWN: Code = ["?"]


def _operator(node: ast.AST) -> str:
    return type(node).__name__


def expression(node: ast.expr | None) -> Code:
    """An expression as data."""
    if node is None:
        return ["c", None]
    method = _EXPRESSIONS.get(type(node))
    return UNKNOWN if method is None else method(node)


def written(text: str) -> Code:
    """The same of an expression's text."""
    try:
        return expression(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return UNKNOWN


def _constant(node: ast.Constant) -> Code:
    plain = node.value is None or isinstance(node.value, (str, int, float, bool))
    return ["c", node.value] if plain else UNKNOWN


def call(node: ast.Call) -> Code:
    if any(isinstance(word, ast.Starred) for word in node.args):
        return UNKNOWN
    named = {word.arg or "**": expression(word.value) for word in node.keywords}
    return ["call", expression(node.func), [expression(word) for word in node.args], named]


def _text(node: ast.JoinedStr) -> Code:
    parts: list[Any] = []
    for part in node.values:
        if isinstance(part, ast.Constant):
            parts.append(str(part.value))
        elif isinstance(part, ast.FormattedValue):
            parts.append(expression(part.value))
    return ["f", parts]


def _comprehension(node: ast.GeneratorExp | ast.ListComp) -> Code:
    if len(node.generators) != 1:
        return UNKNOWN
    one = node.generators[0]
    return [
        "comp" if isinstance(node, ast.GeneratorExp) else "list of",
        expression(node.elt),
        expression(one.target),
        expression(one.iter),
        [expression(i) for i in one.ifs],
    ]


def _elements(kind: str, node: ast.List | ast.Tuple | ast.Set) -> Code:
    return UNKNOWN if any(isinstance(one, ast.Starred) for one in node.elts) else [kind, *map(expression, node.elts)]


def _comparison(node: ast.Compare) -> Code:
    pairs = [[_operator(one), expression(two)] for one, two in zip(node.ops, node.comparators, strict=True)]
    return ["cmp", expression(node.left), pairs]


def _unary(node: ast.UnaryOp) -> Code:
    kind = {"Not": "not", "USub": "neg"}.get(_operator(node.op))
    return UNKNOWN if kind is None else [kind, expression(node.operand)]


_EXPRESSIONS: dict[type, Any] = {
    ast.Constant: _constant,
    ast.Name: lambda node: ["n", node.id],
    ast.Attribute: lambda node: ["a", expression(node.value), node.attr],
    ast.BoolOp: lambda node: [_operator(node.op).lower(), *map(expression, node.values)],
    ast.UnaryOp: _unary,
    ast.Compare: _comparison,
    ast.BinOp: lambda node: ["bin", _operator(node.op), expression(node.left), expression(node.right)],
    ast.IfExp: lambda node: ["if", expression(node.test), expression(node.body), expression(node.orelse)],
    ast.Call: call,
    ast.Lambda: lambda node: ["lambda", [one.arg for one in node.args.args], expression(node.body)],
    ast.JoinedStr: _text,
    ast.List: lambda node: _elements("list", node),
    ast.Tuple: lambda node: _elements("tuple", node),
    ast.Set: lambda node: _elements("set", node),
    ast.Slice: lambda node: ["slice", *map(expression, (node.lower, node.upper, node.step))],
    ast.Dict: lambda node: [
        "dict",
        [[expression(k), expression(v)] for k, v in zip(node.keys, node.values, strict=True)],
    ],
    ast.Subscript: lambda node: ["idx", expression(node.value), expression(node.slice)],
    ast.GeneratorExp: _comprehension,
    ast.ListComp: _comprehension,
}


def statements(nodes: list[ast.stmt]) -> list[Code]:
    """Statements as data, without those that only speak."""
    return [code for node in nodes for code in _statement(node)]


def _statement(node: ast.stmt) -> Iterator[Code]:
    if isinstance(node, ast.Assert):
        yield ["assert", expression(node.test), expression(node.msg), node.lineno]
    elif isinstance(node, ast.Raise):
        yield ["raise", expression(node.exc), node.lineno]
    elif isinstance(node, ast.If):
        yield ["if", expression(node.test), statements(node.body), statements(node.orelse)]
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            yield ["set", expression(target), expression(node.value)]
    elif isinstance(node, ast.AnnAssign):
        if node.value is not None:
            yield ["set", expression(node.target), expression(node.value)]
    elif isinstance(node, ast.AugAssign):
        grown = expression(node.target)
        yield ["set", grown, ["bin", _operator(node.op), grown, expression(node.value)]]
    elif isinstance(node, ast.For):
        yield _loop(node)
    elif isinstance(node, ast.Delete):
        yield from (["del", expression(one)] for one in node.targets)
    elif isinstance(node, ast.Return):
        yield ["ret", expression(node.value)]
    elif isinstance(node, ast.Expr):
        if isinstance(node.value, ast.Call) and not _only_says(node.value):
            yield ["do", expression(node.value)]
    elif isinstance(node, (ast.Break, ast.Continue)):
        yield ["leave", _operator(node)]
    elif isinstance(node, (ast.Try, ast.While, ast.With)):
        yield ["forget", _targets(node)]
        if any(isinstance(inner, ast.Return) for inner in ast.walk(node)):
            yield ["maybe"]


def _loop(node: ast.For) -> Code:
    returns = any(isinstance(inner, ast.Return) for inner in ast.walk(node))
    parts = [expression(node.target), expression(node.iter), statements(node.body), statements(node.orelse)]
    return ["for", *parts, _targets(node), returns]


def _targets(node: ast.AST) -> list[Code]:
    """What a piece of code may assign, or change in place."""
    found: dict[str, Code] = {}
    for inner in ast.walk(node):
        several = inner.targets if isinstance(inner, ast.Assign) else []
        one = inner.target if isinstance(inner, (ast.AugAssign, ast.AnnAssign, ast.For)) else None
        if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute) and inner.func.attr in CHANGES:
            one = inner.func.value
        for target in several if one is None else [one]:
            found[ast.dump(target)] = expression(target)
    return list(found.values())


def _only_says(call: ast.Call) -> bool:
    name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    spoken = isinstance(owner, ast.Name) and owner.id in ("warnings", "logger", "logging")
    return spoken or name.startswith(_SAYS)
