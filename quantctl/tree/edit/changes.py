"""How each kind of edit changes a function: one class a kind."""

from __future__ import annotations

import ast
import math
from collections.abc import Sequence
from typing import cast

import libcst as cst

from quantctl.patches.patch import Edit, Kind
from quantctl.stock.products import key_of, products_in
from quantctl.tree.edit.code import append, build
from quantctl.tree.edit.pattern import Bindings, code_of, match


class Change:
    """Changes one function and counts the places where its anchor matched."""

    def __init__(self, edit: Edit, module: cst.Module) -> None:
        super().__init__()
        self.edit = edit
        self.module = module
        self.matches = 0

    def of(self, function: cst.FunctionDef) -> cst.FunctionDef:
        """The function as the edit makes it."""
        raise NotImplementedError


class Visitor(Change, cst.CSTTransformer):
    """Changes places inside the function."""

    def of(self, function: cst.FunctionDef) -> cst.FunctionDef:
        return cast(cst.FunctionDef, function.visit(self))


_HOLDS_STATEMENTS = (
    *(cst.BaseCompoundStatement, cst.IndentedBlock, cst.Else, cst.ExceptHandler, cst.ExceptStarHandler, cst.Finally),
    cst.MatchCase,
)


class Replace(Visitor):
    """Put `code` in place of the statement `anchor`; ORIGINAL_STATEMENT in it is the statement itself."""

    def change(self, statement: cst.SimpleStatementLine, bindings: Bindings) -> Sequence[cst.BaseStatement]:
        first, *rest = build(self.edit.code, bindings, statement, self.module)
        return [first.with_changes(leading_lines=statement.leading_lines), *rest]

    def on_visit(self, node: cst.CSTNode) -> bool:
        # statements are compared as a whole, and expressions hold none; what is not entered stays the same object
        return isinstance(node, _HOLDS_STATEMENTS)

    def leave_SimpleStatementLine(
        self, original_node: cst.SimpleStatementLine, updated_node: cst.SimpleStatementLine
    ) -> cst.BaseStatement | cst.FlattenSentinel[cst.BaseStatement]:
        bindings = match(self.edit.anchor, updated_node)
        if bindings is None:
            return updated_node
        self.matches += 1
        return cst.FlattenSentinel(self.change(updated_node, bindings))


class After(Replace):
    """Insert `code` behind the statement `anchor`."""

    def change(self, statement: cst.SimpleStatementLine, bindings: Bindings) -> Sequence[cst.BaseStatement]:
        return [statement, *build(self.edit.code, bindings, statement, self.module)]


class First(Change):
    """Insert `code` as the first statement, behind the docstring."""

    def of(self, function: cst.FunctionDef) -> cst.FunctionDef:
        block = function.body
        if not isinstance(block, cst.IndentedBlock):
            return function  # all on one line: there is no place, and the anchor is not found
        start = 0 if function.get_docstring() is None else 1
        neighbour = cast(cst.SimpleStatementLine, block.body[0])
        new = build(self.edit.code, {}, neighbour, self.module)
        self.matches += 1
        return function.with_changes(body=block.with_changes(body=[*block.body[:start], *new, *block.body[start:]]))


class Last(Change):
    """Insert `code` as the last statement."""

    def of(self, function: cst.FunctionDef) -> cst.FunctionDef:
        block = function.body
        if not isinstance(block, cst.IndentedBlock):
            return function
        neighbour = cast(cst.SimpleStatementLine, block.body[-1])
        new = build(self.edit.code, {}, neighbour, self.module)
        self.matches += 1
        return function.with_changes(body=block.with_changes(body=[*block.body, *new]))


class Parameter(Change):
    """Add the parameter `code` behind the last positional one."""

    def of(self, function: cst.FunctionDef) -> cst.FunctionDef:
        parameters = function.params
        if parameters.star_kwarg or parameters.kwonly_params or not parameters.params:
            return function
        self.matches += 1
        new = cast(cst.FunctionDef, cst.parse_statement(f"def f({self.edit.code}): pass")).params.params[0]
        return function.with_changes(params=parameters.with_changes(params=append(parameters.params, new)))


class ListElement(Visitor):
    """Append the element `code` to the list display that is assigned to the name `anchor`."""

    def leave_Assign(self, original_node: cst.Assign, updated_node: cst.Assign) -> cst.Assign:
        target, value = updated_node.targets[0].target, updated_node.value
        if not (isinstance(target, cst.Name) and target.value == self.edit.anchor and isinstance(value, cst.List)):
            return updated_node
        self.matches += 1
        new = cst.Element(cst.parse_expression(self.edit.code))
        return updated_node.with_changes(value=value.with_changes(elements=append(value.elements, new)))


class ReturnElement(Visitor):
    """Append the element `code` to each tuple that the function returns."""

    def leave_Return(self, original_node: cst.Return, updated_node: cst.Return) -> cst.Return:
        value = updated_node.value
        if not isinstance(value, cst.Tuple) or not value.elements:
            return updated_node
        self.matches += 1
        new = cst.Element(cst.parse_expression(self.edit.code))
        return updated_node.with_changes(value=value.with_changes(elements=append(value.elements, new)))


class Argument(Visitor):
    """Append the argument `code` to the call of `anchor`."""

    def leave_Call(self, original_node: cst.Call, updated_node: cst.Call) -> cst.Call:
        if not updated_node.args or code_of(updated_node.func) != self.edit.anchor:
            return updated_node
        self.matches += 1
        new = cast(cst.Call, cst.parse_expression(f"f({self.edit.code})")).args[0]
        return updated_node.with_changes(args=append(updated_node.args, new))


class Products(Change):
    """Count the matrix products, in front of the call of `anchor` if there is one: a fork may have more than stock."""

    def of(self, function: cst.FunctionDef) -> cst.FunctionDef:
        code = ast.parse(code_of(function))
        stops = [place for node in ast.walk(code) if (place := _called(node, self.edit.anchor))]
        before = min(stops, default=(math.inf, 0))
        self.matches += sum((node.lineno, node.col_offset) < before for node in products_in(code))
        return function


def _called(node: ast.AST, name: str) -> tuple[float, int] | None:
    """Where the node stands if it calls what bears that name, or an attribute of that name."""
    if not isinstance(node, ast.Call):
        return None
    called = node.func.attr if isinstance(node.func, ast.Attribute) else key_of(node.func)
    return (node.lineno, node.col_offset) if called == name else None


CHANGES: dict[Kind, type[Change]] = {
    Kind.REPLACE: Replace,
    Kind.AFTER: After,
    Kind.FIRST: First,
    Kind.LAST: Last,
    Kind.PARAMETER: Parameter,
    Kind.LIST_ELEMENT: ListElement,
    Kind.RETURN_ELEMENT: ReturnElement,
    Kind.ARGUMENT: Argument,
    Kind.PRODUCTS: Products,
    Kind.PRODUCTS_BEFORE: Products,
}
