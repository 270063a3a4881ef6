"""What counts as a matrix product: an edit that counts changes nothing, and refuses any other number."""

from __future__ import annotations

import pytest

from quantctl.patches.patch import Edit, Kind
from quantctl.tree.edit.insert import AnchorError, insert

CASES = {
    "function": ("y = torch.matmul(a, b)", 1),
    "method": ("y = a.mm(b).add(c)", 1),
    "operator": ("y = a @ b + c", 1),
    "operator in place": ("a @= b", 1),
    "linear": ("y = F.linear(x, weight)", 1),
    "einsum": ("y = torch.einsum('ij,jk', a, b)", 1),
    "Transformer Engine": ("y = te_general_gemm(weight, x)[0]", 1),
    "helper": ("return _linear_forward(x, weight)", 1),
    "batched": ("torch.baddbmm(c, a, b, out=y)", 1),
    "nested": ("y = torch.bmm(torch.bmm(a, b), c)", 2),
    "named, not called": ("f = torch.matmul", 0),
    "no product": ("y = torch.sum(a * b)", 0),
    "behind the stop": ("y = a @ b; stop(y); z = a @ b", 1),
    "none before the stop": ("stop(y); z = torch.mm(a, b)", 0),
}


@pytest.mark.parametrize(("code", "products"), CASES.values(), ids=CASES)
def test_products_are_counted(code, products):
    source = f"def f():\n    {code}\n".encode()

    def count(*expected: int) -> bytes:
        return insert(source, "f.py", [Edit(Kind.PRODUCTS_BEFORE, "f", "stop", "", count=expected)])

    assert count(products) == source
    with pytest.raises(AnchorError, match=f"in front of the call of `stop`: expected 9, found {products}"):
        count(9)
