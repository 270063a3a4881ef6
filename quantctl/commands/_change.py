"""One change of a tree from the command line: plan it, show it, and write it as one recorded operation."""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import click

from quantctl import output
from quantctl.commands._common import command_line, describe, show_recorded, unified_diff
from quantctl.history.backup import Backup, backup_of
from quantctl.history.editions import originals
from quantctl.history.recovery import read_consistent
from quantctl.history.transaction import Change, open_tree
from quantctl.tree import fit
from quantctl.tree.selectors import SELECTORS
from quantctl.tree.state import PatchState, TreeState, is_untouched, plan, read_state, values_after
from quantctl.tree.tree import INSTALLED, Tree


def _changes(
    tree: Tree, backup: Backup, present: TreeState, values: Mapping[str, str], accept: Collection[str]
) -> list[Change]:
    """What makes the tree say `values`; what an earlier quantctl patched is patched anew if its own bytes are known."""
    state = present
    if stock := originals(present, backup):
        state = read_state(tree.root, stock)
        values = {role: value for role, value in present.values().items() if role in SELECTORS} | dict(values)
    before = {file: source.raw for file, source in present.sources.items()}
    return [
        Change(file, before[file], after, fresh=is_untouched(file, before[file]))
        for file, after in plan(state, values, accept).items()
    ]


def _show_values(tree: Tree, before: TreeState, after: TreeState) -> None:
    rows = []
    for role, place in after.selectors.items():
        old = before.selectors[role].value if role in before.selectors else None
        says = (
            place.value if old == place.value else f"{place.value} (new)" if old is None else f"{old} -> {place.value}"
        )
        rows.append([role, says, f"{SELECTORS[role].file}:{place.lines}"])
    old_values = {place.where: place.literal.value for place in before.places}
    for other in after.places:
        value, old = other.literal.value, old_values.get(other.where, "?")
        rows.append([" and ".join(other.roles), value if old == value else f"{old} -> {value}", other.where])
    click.echo(output.columns(output.folded(rows)))


def _say_patches(before: TreeState, after: TreeState) -> None:
    """Which patches went in, and which the tree needs but could not take."""
    if before.outdated() and not after.outdated():
        output.say("patched anew: an earlier quantctl's patches knew no rules for layers and modules")
    wanted = before.available()
    inserted = [patch.name for patch in wanted if after.patches[patch.name] is PatchState.APPLIED]
    left_out = [patch.name for patch in wanted if patch.name not in inserted]
    if inserted:
        output.say(f"inserted: {', '.join(inserted)} (quantctl patch --list explains them)")
    if left_out:
        output.say(f"left out, does not fit this tree: {', '.join(left_out)} (quantctl patch --list says why)")
        if roles := [role for patch in wanted if patch.name in left_out for role in patch.roles]:
            output.say(f"the tree has no selectors for {', '.join(roles)}: their products stay as they are")
    if after.values().get("attention") == "auto" and (place := fit.strange_attention(after.reader({}))):
        output.say(f"attention=auto stays unfused: {place} is no known release's own code")


@contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection: syntax trees are many objects and no cycles, and looking for some, at the process's end
    too, took a quarter of a `patch`."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@_uncollected()
def change_tree(
    tree: Tree,
    values: Mapping[str, str],
    *,
    kind: str,
    dry: bool,
    show_diff: bool,
    as_json: bool,
    accept: Collection[str] = (),
) -> bool:
    """Patch the tree where needed and set `values`; True if that changes (or, with `dry`, would change) anything."""
    if tree.found_by == INSTALLED and not dry:
        output.say("no tree was named and none is around here: this changes the installed one; quantctl undo goes back")
    output.say(f"tree: {describe(tree)}")
    if dry:
        changes = _changes(tree, backup_of(tree), read_consistent(tree), values, accept)
        if show_diff:
            for change in changes:
                click.echo(unified_diff(change.path, change.before, change.after), nl=False)
        return bool(changes)
    with open_tree(tree) as session:
        before = read_state(tree.root)
        changes = _changes(tree, session.backup, before, values, accept)
        operation = session.apply(changes, kind, command_line(), values_after(before, values))
        after = read_state(tree.root)
    _say_patches(before, after)
    if operation and (foreign := [record.path for record in operation.files if record.original is None]):
        output.say(
            f"note: {', '.join(foreign)} held quantctl's patches before this history began (moved, copied or cloned, "
            "or patched by another user): quantctl restore will not know the stock bytes, undo goes back to these"
        )
    if as_json:
        output.data({"tree": tree.root, "operation": operation and operation.id, "selectors": after.values()})
    else:
        _show_values(tree, before, after)
        show_recorded(operation)
    return operation is not None
