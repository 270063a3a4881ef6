"""How matrix products, tests and targets look in Python source: what quantctl.tree.flow recognizes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping

# by product, how functions that compute it are called: mxfp_matmul, F.linear, LinearWithFrozenWeight.apply
CALLED = {
    "baddbmm": r"baddbmm",
    "bmm": r"bmm",
    "linear": r"linear|^_forward_impl$",
    "matmul": r"matmul|gemm|(?:^|_)mm$|addmm",
    "attention": r"attention(?:_v\d+)?$|attention_forward$|flash_attn|attn_func|scaled_dot_product",
}
# the same where the result is dropped: what is left is output in place, and not save_linear_inputs(...)
FOR_EFFECT = {"baddbmm": r"baddbmm$", "bmm": r"bmm$", "matmul": r"matmul$|wgrad_gemm|(?:^|_)mm$"}
COMPUTES = re.compile(
    r"\w*((?<!co)mm|matmul|einsum|dot|linear|_linear_forward|fusion_attention|scaled_dot_product_attention)"
)
"""Functions that compute a matrix product: torch's, Transformer Engine's te_general_gemm, Megatron's helper."""
_GEMM = re.compile(r"(^|_)gemm_(\w+_)?[nt][nt]$")  # with its operands' layout: fp8_gemm_nt, gemm_fp8_fp8_bf16_nt
# products that are handed around by name: f = torch.matmul
_NAMED = {"baddbmm": r"baddbmm$", "bmm": r"bmm$", "linear": r"linear$", "matmul": r"matmul$|(?:^|_)mm$"}


def key_of(node: ast.AST | None) -> str | None:
    """`name` or `name.attribute`, as far as names are followed."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (owner := key_of(node.value)):
        return f"{owner}.{node.attr}"
    return None


def targets_of(node: ast.AST) -> Iterator[ast.AST]:
    """The single targets of an assignment to `node`."""
    if isinstance(node, (ast.Tuple, ast.List)):
        for part in node.elts:
            yield from targets_of(part)
    else:
        yield node.value if isinstance(node, ast.Starred) else node


def _product(function: ast.AST, patterns: Mapping[str, str]) -> str | None:
    if isinstance(function, ast.Call) and function.args:
        function = function.args[0]  # apply_module(self.linear_fc2)(x)
    name = (key_of(function) or (function.attr if isinstance(function, ast.Attribute) else "")).split(".")
    # an autograd function is called as Class.apply
    last = name[-2] if name[-1] == "apply" and len(name) > 1 else name[-1]
    return next((kind for kind, pattern in patterns.items() if re.search(pattern, last, re.IGNORECASE)), None)


def called(node: ast.AST, patterns: Mapping[str, str] = CALLED) -> str | None:
    """The product that an expression computes: baddbmm, bmm or matmul."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        return "matmul"
    return _product(node.func, patterns) if isinstance(node, ast.Call) else None


def named(node: ast.AST) -> str | None:
    """The product whose function an expression names without calling it."""
    return _product(node, _NAMED) if key_of(node) else None


def products_in(function: ast.AST) -> list[ast.expr | ast.stmt]:
    """The expressions in it that compute a matrix product, and `@=`."""
    found: list[ast.expr | ast.stmt] = []
    for node in ast.walk(function):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else key_of(node.func)
            if COMPUTES.fullmatch(name or "") or _GEMM.search(name or ""):
                found.append(node)
        elif isinstance(node, (ast.BinOp, ast.AugAssign)) and isinstance(node.op, ast.MatMult):
            found.append(node)
    return found


def has_product(value: ast.AST) -> bool:
    return any(called(part) for part in ast.walk(value))


def strings(node: ast.expr) -> Iterator[str]:
    for part in node.elts if isinstance(node, (ast.Tuple, ast.List, ast.Set)) else [node]:
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value


def asked_for(test: ast.expr) -> tuple[frozenset[str], bool]:
    """The values that a test asks for, and whether it asks for nothing else."""
    if isinstance(test, ast.BoolOp):
        parts = [asked_for(value) for value in test.values]
        every = any if isinstance(test.op, ast.And) else all
        return frozenset().union(*(formats for formats, _ in parts)), every(plain for _, plain in parts)
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], (ast.Eq, ast.In)):
        formats = frozenset((*strings(test.left), *strings(test.comparators[0])))
        return formats, bool(formats)
    return frozenset(), False


def chain_of(statement: ast.If) -> tuple[list[ast.expr], list[ast.stmt]]:
    """The tests of an if/elif chain from here on, and what its else holds."""
    tests, branch = [statement.test], statement.orelse
    while len(branch) == 1 and isinstance(branch[0], ast.If):
        tests.append(branch[0].test)
        branch = branch[0].orelse
    return tests, branch
