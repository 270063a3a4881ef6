"""Several files change together or not at all, also when writing one of them fails (tests/faults kills the process)."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import asdict

import pytest
from remembered import remember_insertion
from small import small_tree

from quantctl.errors import QuantctlError
from quantctl.history import replace
from quantctl.history.backup import Backup
from quantctl.history.recovery import read_consistent, recover
from quantctl.history.transaction import Change, open_tree
from quantctl.tree.state import FILES, plan, read_state
from quantctl.tree.tree import Tree


def contents(tree: Tree) -> dict[str, bytes]:
    return {file: (tree.root / file).read_bytes() for file in FILES if (tree.root / file).exists()}


def changes_to(tree: Tree, values: dict[str, str]) -> list[Change]:
    state = read_state(tree.root)
    return [Change(file, state.sources[file].raw, raw) for file, raw in plan(state, values).items()]


@pytest.fixture
def tree(megatron_tree, tmp_path) -> Tree:
    remember_insertion()
    return Tree(small_tree(megatron_tree("0.16.1"), tmp_path.resolve() / "tree"), "--megatron")


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


def killed_earlier(tree: Tree, backup: Backup, published: bool) -> dict[str, bytes]:
    """Leave what a kill did before journals lay in the tree: two files in place, one staged. Returns those before."""
    before = contents(tree)
    with open_tree(tree) as session:
        operation = session.apply(changes_to(tree, {"qk": "mxfp8"}), "set", "quantctl set", {})
    if not published:
        backup.repository.run("update-ref", "-d", backup.ref)
        *_, staged = (record.path for record in operation.files[2:])
        for record in operation.files[2:]:
            (tree.root / record.path).write_bytes(before[record.path])
        (tree.root / staged).with_name(f".{(tree.root / staged).name}.quantctl").write_text("half")
    names = ("path", "before", "after")
    files = [{name: asdict(record)[name] for name in names} for record in operation.files]
    journal = {"operation": operation.id, "previous": None, "files": files}
    (backup.state / "journal.json").write_text(json.dumps(journal))
    return before


@pytest.mark.parametrize("published", [False, True])
def test_a_journal_from_before_it_lay_in_the_tree(tree, published):
    with open_tree(tree) as session:
        backup = session.backup
    before = killed_earlier(tree, backup, published)
    present = contents(tree)
    if published:
        read_consistent(tree)
    else:
        with pytest.raises(QuantctlError, match="killed half way"):
            read_consistent(tree)
    assert contents(tree) == present
    with open_tree(tree):
        pass
    assert contents(tree) == (present if published else before)
    assert not (backup.state / "journal.json").exists()
    assert leftovers(tree) == []
