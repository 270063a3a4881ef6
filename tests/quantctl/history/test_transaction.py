"""Several files change together or not at all, also when writing one of them fails (tests/faults kills the process)."""

from __future__ import annotations

import errno
import os

import pytest

from quantctl.errors import QuantctlError
from quantctl.history import replace
from quantctl.history.recovery import recover
from quantctl.history.transaction import Change, open_tree
from quantctl.tree.state import FILES, plan, read_state
from quantctl.tree.tree import Tree


def contents(tree: Tree) -> dict[str, bytes]:
    return {file: (tree.root / file).read_bytes() for file in FILES if (tree.root / file).exists()}


def changes_to(tree: Tree, values: dict[str, str]) -> list[Change]:
    state = read_state(tree.root)
    return [Change(file, state.sources[file].raw, raw) for file, raw in plan(state, values).items()]


@pytest.fixture
def tree(stock_copy) -> Tree:
    return Tree(stock_copy("0.16.1").resolve(), "--megatron")


def leftovers(tree: Tree) -> list[str]:
    return [path.name for path in tree.core.rglob(".*")]


@pytest.mark.parametrize("step", ["stage", "exchange"])
@pytest.mark.parametrize("failing_call", [1, 2, 3])
def test_failed_write_changes_nothing(tree, monkeypatch, step, failing_call):
    before, calls, real = contents(tree), [], getattr(replace, step)

    def fail_once(path, *arguments):
        calls.append(path)
        if len(calls) == failing_call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return real(path, *arguments)

    monkeypatch.setattr(replace, step, fail_once)
    with open_tree(tree) as session:
        with pytest.raises(QuantctlError, match="No space left on device"):
            session.apply(changes_to(tree, {"qk": "mxfp8"}), "set", "quantctl set", {})
        assert recover(tree, session.backup) is None
        assert session.backup.operations() == []
    assert contents(tree) == before
    assert leftovers(tree) == []
