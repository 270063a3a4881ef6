"""`quantctl check`: what each selector of the tree says, and whether that is what was expected."""

from __future__ import annotations

import re
from typing import Any

import click

from quantctl import output
from quantctl.cli import EXIT_DIFFERS
from quantctl.commands._common import describe, tree_in_use
from quantctl.errors import QuantctlError
from quantctl.provenance import git_state
from quantctl.selectors import SELECTORS, known_value
from quantctl.spec import NONE, canonical
from quantctl.state import TreeState, read_state
from quantctl.tree import Tree


def _expected(text: str | None) -> dict[str, str]:
    """`linear=mxfp8:scale=floor,round=away,qk=mxfp4` as role to canonical spec."""
    if not text:
        return {}
    wanted = {}
    for item in re.split(rf",(?=(?:{'|'.join(SELECTORS)})=)", text):
        role, _, spec = item.partition("=")
        if role not in SELECTORS:
            raise QuantctlError(f"--expect {item!r}: unknown selector {role!r}", f"choose from: {', '.join(SELECTORS)}")
        wanted[role] = canonical(spec, role)
    return wanted


def _problems(state: TreeState, expected: dict[str, str]) -> list[str]:
    found = []
    for role, place in state.selectors.items():
        where = f"{SELECTORS[role].file}:{place.line}"
        if not known_value(role, place.value):
            found.append(f"{where}: {role} is {place.value!r}, which is no known format spec; the run would stop at it")
        if place.uses == 0:
            found.append(f"{where}: {SELECTORS[role].variable} is never read: the rest of the patch is missing")
    if any(state.patches.values()):
        for name in (name for name, applied in state.patches.items() if not applied):
            found.append(f"patch {name} is missing beside the others: run quantctl patch")
    for role, wanted in expected.items():
        value = state.selectors[role].value if role in state.selectors else NONE
        says = canonical(value, role) if known_value(role, value) else value
        if says != wanted:
            found.append(f"{role} is {says!r}, expected {wanted!r}")
    return found


@click.command(short_help="show every selector")
@click.option("--expect", metavar="ROLE=SPEC,...", help="Exit 1 unless they say this, e.g. linear=mxfp8,qk=none.")
@click.pass_context
def command(ctx: click.Context, expect: str | None) -> None:
    """Show every selector: value, file:line, the tree's version and git state.

    Exit status 1 when a value is unknown, a patch is incomplete or --expect is not met.
    """
    expected = _expected(expect)
    tree = tree_in_use(ctx)
    state = read_state(tree.root)
    commit = git_state(tree)
    problems = _problems(state, expected)
    patched = any(state.patches.values())
    if ctx.obj["json"]:
        output.data(
            {
                "tree": tree.root,
                "found_by": tree.found_by,
                "megatron_core": tree.version(),
                "git": commit,
                "patched": patched,
                "patches": state.patches,
                "selectors": {
                    role: {
                        "value": state.selectors[role].value if role in state.selectors else None,
                        "file": selector.file,
                        "line": state.selectors[role].line if role in state.selectors else None,
                    }
                    for role, selector in SELECTORS.items()
                },
                "problems": problems,
            }
        )
    else:
        _print(tree, state, commit, patched)
        for problem in problems:
            output.say(f"problem: {problem}")
    if problems:
        ctx.exit(EXIT_DIFFERS)


def _print(tree: Tree, state: TreeState, git: dict[str, Any] | None, patched: bool) -> None:
    git_line = "not in a git checkout"
    if git is not None:
        commit = git["commit"][:10] if git["commit"] else "(no commit)"
        git_line = f"{git['branch'] or 'detached'} {commit}, {git['changed_files']} changed files"
    click.echo(output.columns([["tree", describe(tree)], ["git", git_line]]))
    click.echo()
    if not patched:
        click.echo("stock: no selectors; every product runs in the training dtype (quantctl patch inserts them)")
        return
    rows = [["selector", "value", "where"]]
    for role, selector in SELECTORS.items():
        place = state.selectors.get(role)
        value, line = (place.value, f":{place.line}") if place else ("(not patched)", "")
        rows.append([role, value, selector.file + line])
    click.echo(output.columns(rows))
