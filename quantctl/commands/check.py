"""`quantctl check`: what each selector of the tree says, and whether that is what was expected."""

from __future__ import annotations

import re
from typing import Any

import click

from quantctl import output
from quantctl.commands._common import BehindDashes, behind_dashes, describe, tree_in_use
from quantctl.errors import QuantctlError
from quantctl.exits import DIFFERS
from quantctl.forks import NOTE, canonical_or
from quantctl.provenance import git_state
from quantctl.recovery import read_consistent
from quantctl.selectors import SELECTORS, Located, known_value
from quantctl.state import PatchState, TreeState
from quantctl.tree import Tree


def _expected(text: str | None) -> dict[str, str]:
    """`linear=mxfp8:scale=floor,round=away,attention=auto` as role to value in canonical form."""
    if not text:
        return {}
    wanted = {}
    for item in re.split(rf",(?=(?:{'|'.join(SELECTORS)})=)", text):
        role, _, spec = item.partition("=")
        if role not in SELECTORS:
            raise QuantctlError(f"--expect {item!r}: unknown selector {role!r}", f"choose from: {', '.join(SELECTORS)}")
        wanted[role] = SELECTORS[role].canonical(spec)
    return wanted


def _patched(state: TreeState) -> bool:
    return PatchState.APPLIED in state.patches.values()


def _problems(state: TreeState, expected: dict[str, str]) -> list[str]:
    found = []
    for role, place in state.selectors.items():
        where = f"{SELECTORS[role].file}:{place.lines}"
        if place.fork:
            found += _fork_problems(role, place)
        elif not known_value(role, place.value):
            choices = SELECTORS[role].choices
            wrong = f"none of {', '.join(choices)}" if choices else "no known format spec"
            found.append(f"{where}: {role} is {place.value!r}, which is {wrong}; the run would stop at it")
        if place.uses == 0:
            found.append(f"{where}: {SELECTORS[role].variable} is never read: the rest of the patch is missing")
    found += [str(place) for fork in state.forks.values() for place in fork.unclear]
    if _patched(state):
        for patch in state.available():
            if patch.required:
                found.append(f"patch {patch.name} is missing beside the others: run quantctl patch")
    for role, wanted in expected.items():
        value = state.selectors[role].value if role in state.selectors else SELECTORS[role].default
        if role not in state.selectors and SELECTORS[role].file in state.forks:
            found.append(f"{role}: expected {wanted!r}, but the fork's code has no selector for it that is clear")
            continue
        says = canonical_or(value, role)
        if says != wanted:
            found.append(f"{role} is {says!r}, expected {wanted!r}")
    return found


def _fork_problems(role: str, place: Located) -> list[str]:
    found = []
    for selector in place.fork:
        where, value = f"{selector.file}:{selector.literal.line}", selector.literal.value
        if not known_value(role, value):
            found.append(f"{where}: {role} is {value!r}, which is no known format spec")
        if not selector.understood:
            asks = ", ".join(sorted(selector.formats))
            found.append(
                f"{where}: {role} is {value!r}, and no branch of the fork's code asks for that (but for {asks})"
            )
    return found


@click.command(cls=BehindDashes, short_help="show every selector")
@click.option("--expect", metavar="ROLE=VALUE,...", help="Exit 1 unless they say this, e.g. linear=mxfp8,qk=none.")
@click.pass_context
def command(ctx: click.Context, expect: str | None) -> None:
    """Show every selector: value, file:line, the tree's version and git state.

    \b
    quantctl check --expect linear=mxfp8,qk=none
    quantctl check -- torchrun pretrain_gpt.py --fp8-format hybrid ...

    With a training command behind -- it also says whether the selectors rule that command's formats, or Transformer
    Engine's own recipe, or nothing. Exit status 1 when a value is unknown, a patch is incomplete or --expect is not
    met.
    """
    expected = _expected(expect)
    tree = tree_in_use(ctx)
    state = read_consistent(tree)
    commit = git_state(tree)
    problems = _problems(state, expected)
    patched = _patched(state)
    rules = _who_rules(behind_dashes(ctx), tree, state)
    if ctx.obj["json"]:
        output.data(
            {
                "tree": tree.root,
                "found_by": tree.found_by,
                "megatron_core": tree.version(),
                "git": commit,
                "patched": patched,
                "patches": {name: found.value for name, found in state.patches.items()},
                "selectors": {
                    role: {
                        "value": state.selectors[role].value if role in state.selectors else None,
                        "file": selector.file,
                        "line": _lines(state, role)[0] if role in state.selectors else None,
                        "lines": _lines(state, role),
                        "fork": role in state.selectors and bool(state.selectors[role].fork),
                    }
                    for role, selector in SELECTORS.items()
                },
                "problems": problems,
                "command": rules,
            }
        )
    else:
        _print(tree, state, commit, patched)
        if rules is not None:
            click.echo(f"\ncommand   {rules['sentence']}")
        for problem in problems:
            output.say(f"problem: {problem}")
    if problems:
        ctx.exit(DIFFERS)


def _who_rules(words: tuple[str, ...], tree: Tree, state: TreeState) -> dict[str, str] | None:
    """Who decides the formats of the command behind --, as lint sees it; None without one."""
    if not words:
        return None
    from quantctl.lint.case import Setting
    from quantctl.lint.judge import judge_command
    from quantctl.lint.who import who_rules
    from quantctl.megatron_flags import nearest

    judged = judge_command(words, Setting(nearest(tree.version()), tree.root, state))
    if judged is None:
        raise QuantctlError(
            f"{words[0]}: no Megatron training was found in this command", "give the whole command, torchrun and all"
        )
    who, sentence = who_rules(judged.case)
    return {"rules": who, "sentence": sentence}


def _lines(state: TreeState, role: str) -> list[int]:
    return [literal.line for literal in state.selectors[role].literals] if role in state.selectors else []


def _print(tree: Tree, state: TreeState, git: dict[str, Any] | None, patched: bool) -> None:
    git_line = "not in a git checkout"
    if git is not None:
        commit = git["commit"][:10] if git["commit"] else "(no commit)"
        git_line = f"{git['branch'] or 'detached'} {commit}, {git['changed_files']} changed files"
    click.echo(output.columns([["tree", describe(tree)], ["git", git_line]]))
    click.echo()
    if not patched and not state.forks:
        click.echo("stock: no selectors; every product runs in the training dtype (quantctl patch inserts them)")
        return
    rows = [["selector", "value", "where"]]
    for role, selector in SELECTORS.items():
        place = state.selectors.get(role)
        fork = state.forks.get(selector.file)
        absent = "(not patched)" if fork is None else "(left to the fork's code)"
        value, line = (place.value, f":{place.lines}") if place else (absent, "")
        rows.append([role, value + " (unclear)" * bool(fork and fork.unclear), selector.file + line])
    click.echo(output.columns(rows))
    click.echo()
    click.echo(output.columns(_patch_rows(state)))
    if any(place.fork for place in state.selectors.values()):
        output.say(f"note: {NOTE}")


def _patch_rows(state: TreeState) -> list[list[str]]:
    """The patches that the tree holds and those that it could take, whose anchors nobody has looked at yet."""
    hints = {PatchState.APPLIED: "", PatchState.AVAILABLE: " (quantctl patch --list explains)"}
    rows = []
    for which, hint in hints.items():
        names = [name for name, found in state.patches.items() if found is which]
        if names:
            rows.append([f"patches {which.value}", ", ".join(names) + hint])
    return rows
