"""`quantctl check`: what each selector of the tree says, and whether that is what was expected."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import click

from quantctl import output
from quantctl.commands._common import BehindDashes, accept_option, behind_dashes, describe, meant, tree_in_use
from quantctl.errors import DIFFERS, QuantctlError
from quantctl.history.recovery import read_consistent
from quantctl.modes import same_value, selection
from quantctl.runs.provenance import git_state
from quantctl.tree import fit, verdict
from quantctl.tree.forks import NOTE, ForkSelector, canonical_or
from quantctl.tree.selectors import SELECTORS, known_value
from quantctl.tree.state import PatchState, TreeState, misfits
from quantctl.tree.tree import Tree

if TYPE_CHECKING:
    from quantctl.lint.case import Case


def _expected(text: str | None, tree: Tree) -> dict[str, str]:
    """`linear=mxfp8:scale=floor,round=away,attention=auto`, or a mode, as role to value in canonical form."""
    return selection(text, lambda role, spec: meant(role, spec, tree)) if text else {}


def _patched(state: TreeState) -> bool:
    return PatchState.APPLIED in state.patches.values()


def _problems(state: TreeState, expected: dict[str, str], accept: Collection[str]) -> list[str]:
    found: list[str] = []
    for role, place in state.selectors.items():
        where = f"{SELECTORS[role].file}:{place.lines}"
        if place.fork:
            for selector in place.fork:
                found += _place_problems(role, selector)
        elif not known_value(role, place.value):
            choices = SELECTORS[role].choices
            wrong = f"none of {', '.join(choices)}" if choices else "no known format spec"
            found.append(f"{where}: {role} is {place.value!r}, which is {wrong}; the run would stop at it")
        if place.uses == 0:
            found.append(f"{where}: {SELECTORS[role].variable} is never read: the rest of the patch is missing")
    for other in state.places:
        found += _place_problems(" and ".join(other.roles), other)
    surveys = (*state.forks.values(), *state.elsewhere.values())
    found += [str(place) for fork in surveys for place in fork.unclear]
    found += verdict.problems(state, accept)
    if _patched(state):
        found += _missing_patches(state)
    for role, wanted in expected.items():
        value = state.selectors[role].value if role in state.selectors else SELECTORS[role].default
        if role not in state.selectors and SELECTORS[role].file in state.forks:
            found.append(f"{role}: expected {wanted!r}, but the fork's code has no selector for it that is clear")
            continue
        says = canonical_or(value, role)
        places = [other for other in state.places if role in other.roles]
        if not same_value(role, says, wanted) and not (places and role not in state.selectors):
            found.append(f"{role} is {says!r}, expected {wanted!r}")
        for other in places:
            if not same_value(role, canonical_or(other.literal.value, role), wanted):
                found.append(f"{other.where}: {role} is {other.literal.value!r} there, expected {wanted!r}")
    return found


def _missing_patches(state: TreeState) -> list[str]:
    """Required patches that are not beside the others although they fit."""
    missing = [patch.name for patch in state.available() if patch.required]
    unfit = misfits(state) if missing else {}
    return [f"patch {name} is missing beside the others: run quantctl patch" for name in missing if name not in unfit]


def _place_problems(role: str, place: ForkSelector) -> list[str]:
    value = place.literal.value
    if place.understood and (value in place.formats or known_value(place.role, value)):
        return []
    asks = ", ".join(sorted(place.formats))
    found = [] if known_value(place.role, value) else [f"{place.where}: {role} is {value!r}, no known format spec"]
    if not place.understood:
        found.append(
            f"{place.where}: {role} is {value!r}, and no branch of the fork's code asks for that (but for {asks})"
        )
    return found


def _notes(state: TreeState, problems: Collection[str]) -> list[str]:
    """What a reader should know that is no problem."""
    own = [place for located in state.selectors.values() for place in located.fork]
    found = [
        f"{place.where}: {place.literal.value!r} is the fork's own word, which no format of quantctl's is called"
        for place in (*own, *state.places)
        if place.literal.value in place.formats and not known_value(place.role, place.literal.value)
    ]
    found += [
        f"{place} computes products that no selector decides: what reaches it stays as it is"
        for place in dict.fromkeys(place for _, place in fit.bypasses(state.sources, state.elsewhere))
        if not any(problem.startswith(str(place)) for problem in problems)
    ]
    return [NOTE, *found] if own or state.places else found


@click.command(cls=BehindDashes, short_help="show every selector")
@click.option("--expect", metavar="MODE", help="Exit 1 unless they say this: a mode, or linear=mxfp8,qk=none.")
@accept_option
@click.pass_context
def command(ctx: click.Context, expect: str | None, accept: tuple[str, ...]) -> None:
    """Show every selector: value, file:line, the tree's version and git state.

    \b
    quantctl check --expect linear=mxfp8,qk=none
    quantctl check -- torchrun pretrain_gpt.py --fp8-format hybrid ...

    With a training command behind -- it also says whether the selectors rule that command's formats, or Transformer
    Engine's own recipe, or nothing. Exit status 1 when a value is unknown, a patch is incomplete or --expect is not
    met.
    """
    tree = tree_in_use(ctx)
    expected = _expected(expect, tree)
    state = read_consistent(tree)
    commit = git_state(tree)
    problems = _problems(state, expected, accept)
    notes = _notes(state, problems)
    patched = _patched(state)
    rules, table, misfits = _of_command(behind_dashes(ctx), tree, state)
    problems += misfits
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
                "elsewhere": [
                    {"roles": place.roles, "value": place.literal.value, "file": place.file, "line": place.literal.line}
                    for place in state.places
                ],
                "notes": notes,
                "problems": problems,
                "command": rules,
            }
        )
    else:
        _print(tree, state, commit, patched)
        if rules is not None:
            click.echo("\n".join([f"\ncommand   {rules['sentence']}", *table]))
        for note in notes:
            output.say(f"note: {note}")
        for problem in problems:
            output.say(f"problem: {problem}")
    if problems:
        ctx.exit(DIFFERS)


def _of_command(
    words: tuple[str, ...], tree: Tree, state: TreeState
) -> tuple[dict[str, Any] | None, list[str], list[str]]:
    """Of the command behind --, as lint sees it: who decides its formats, the resolved table, what its model lacks."""
    if not words:
        return None, [], []
    from quantctl.lint.case import Setting
    from quantctl.lint.judge import case_of
    from quantctl.lint.megatron_flags import nearest
    from quantctl.lint.who import who_rules

    case = case_of(words, Setting(nearest(tree.version()), tree.root, state))
    if case is None:
        raise QuantctlError(
            f"{words[0]}: no Megatron training was found in this command", "give the whole command, torchrun and all"
        )
    who, sentence = who_rules(case)
    document, shown, misfits = _table(case)
    return {"rules": who, "sentence": sentence, **document}, shown, misfits


def _table(case: Case) -> tuple[dict[str, Any], list[str], list[str]]:
    """The resolved table as JSON and to read; what stands in its way."""
    from quantctl.lint import resolved
    from quantctl.lint.outline import Unknown

    try:
        found = resolved.table(case)
    except QuantctlError as error:
        reason = f"{error.message}: {error.hint}" if error.hint else error.message
        return {"resolved": None, "unresolved": reason}, [], [reason]
    if isinstance(found, Unknown):
        shown = [f"modules   not known from the command: {found.reason}"] if resolved.has_rules(case) else []
        return {"resolved": None, "unresolved": found.reason}, shown, []
    return {"resolved": found.document(), "unresolved": None}, ["", *found.lines()], []


def _lines(state: TreeState, role: str) -> list[int]:
    return [literal.line for literal in state.selectors[role].literals] if role in state.selectors else []


def _print(tree: Tree, state: TreeState, git: dict[str, Any] | None, patched: bool) -> None:
    git_line = "not in a git checkout"
    if git is not None:
        commit = git["commit"][:10] if git["commit"] else "(no commit)"
        changed = "unknown" if git["changed_files"] is None else git["changed_files"]
        git_line = f"{git['branch'] or 'detached'} {commit}, {changed} changed files"
    click.echo(output.columns([["tree", describe(tree)], ["git", git_line]]))
    click.echo()
    if not patched and not state.forks and not state.elsewhere:
        click.echo("stock: no selectors, so nothing is quantized (quantctl patch inserts them)")
        return
    rows = [["selector", "value", "where"]]
    for role, selector in SELECTORS.items():
        place = state.selectors.get(role)
        fork = state.forks.get(selector.file)
        absent = "(not patched)" if fork is None else "(left to the fork's code)"
        value, line = (place.value, f":{place.lines}") if place else (absent, "")
        if place is None and any(role in other.roles for other in state.places):
            continue  # decided elsewhere
        rows.append([role, value + " (unclear)" * bool(fork and fork.unclear), selector.file + line])
    rows += [[" and ".join(place.roles), place.literal.value, place.where] for place in state.places]
    click.echo(output.columns(output.folded(rows)))
    click.echo()
    click.echo(output.columns(_patch_rows(state)))


def _patch_rows(state: TreeState) -> list[list[str]]:
    """The patches that the tree holds and those that it could take, whose anchors nobody has looked at yet."""
    hints = {PatchState.APPLIED: "", PatchState.AVAILABLE: " (quantctl patch --list explains)"}
    rows = []
    for which, hint in hints.items():
        names = [name for name, found in state.patches.items() if found is which]
        if names:
            rows.append([f"patches {which.value}", ", ".join(names) + hint])
    return rows
