"""How each kind of edit changes a function: one visitor a kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import libcst as cst

from quantctl.patches.patch import Edit, Kind
from quantctl.stock.products import COMPUTES
from quantctl.tree.edit.code import append, build
from quantctl.tree.edit.pattern import Bindings, code_of, match


class Visitor(cst.CSTTransformer):
    """Changes one function and counts the places where its anchor matched."""

    def __init__(self, edit: Edit, module: cst.Module) -> None:
        super().__init__()
        self.edit = edit
        self.module = module
        self.matches = 0


class Replace(Visitor):
    """Put `code` in place of the statement `anchor`; ORIGINAL_STATEMENT in it is the statement itself."""

    def change(self, statement: cst.SimpleStatementLine, bindings: Bindings) -> Sequence[cst.BaseStatement]:
        first, *rest = build(self.edit.code, bindings, statement, self.module)
        return [first.with_changes(leading_lines=statement.leading_lines), *rest]

    def visit_SimpleStatementLine(self, node: cst.SimpleStatementLine) -> bool:
        return False  # compared as a whole; a node that is not entered stays the same object

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


class _Function(Visitor):
    """Changes the function itself, not those defined inside it."""

    def __init__(self, edit: Edit, module: cst.Module) -> None:
        super().__init__(edit, module)
        self.depth = 0

    def change(self, function: cst.FunctionDef) -> cst.FunctionDef:
        raise NotImplementedError

    def visit_FunctionDef(self, node: cst.FunctionDef) -> bool:
        self.depth += 1
        return self.depth == 1

    def leave_FunctionDef(self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef) -> cst.FunctionDef:
        self.depth -= 1
        return updated_node if self.depth else self.change(updated_node)


class First(_Function):
    """Insert `code` as the first statement, behind the docstring."""

    def change(self, function: cst.FunctionDef) -> cst.FunctionDef:
        block = function.body
        if not isinstance(block, cst.IndentedBlock):
            return function  # all on one line: there is no place, and the anchor is not found
        start = 0 if function.get_docstring() is None else 1
        neighbour = cast(cst.SimpleStatementLine, block.body[0])
        new = build(self.edit.code, {}, neighbour, self.module)
        self.matches += 1
        return function.with_changes(body=block.with_changes(body=[*block.body[:start], *new, *block.body[start:]]))


class Parameter(_Function):
    """Add the parameter `code` behind the last positional one."""

    def change(self, function: cst.FunctionDef) -> cst.FunctionDef:
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


class Products(Visitor):
    """Count the matrix products, in front of the call of `anchor` if there is one: a fork may have more than stock."""

    def __init__(self, edit: Edit, module: cst.Module) -> None:
        super().__init__(edit, module)
        self.passed = False

    def visit_Call(self, node: cst.Call) -> None:
        name = code_of(node.func).rpartition(".")[2]
        self.passed |= name == self.edit.anchor
        self.matches += not self.passed and COMPUTES.fullmatch(name) is not None

    def visit_MatrixMultiply(self, node: cst.MatrixMultiply) -> None:
        self.matches += not self.passed

    def visit_MatrixMultiplyAssign(self, node: cst.MatrixMultiplyAssign) -> None:
        self.matches += not self.passed


VISITORS: dict[Kind, type[Visitor]] = {
    Kind.REPLACE: Replace,
    Kind.AFTER: After,
    Kind.FIRST: First,
    Kind.PARAMETER: Parameter,
    Kind.LIST_ELEMENT: ListElement,
    Kind.RETURN_ELEMENT: ReturnElement,
    Kind.ARGUMENT: Argument,
    Kind.PRODUCTS: Products,
    Kind.PRODUCTS_BEFORE: Products,
}
