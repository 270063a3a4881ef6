"""`quantctl smoke`: a reduced model of an architecture on the tree in use: what one runs after `set`."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quantctl import output
from quantctl.commands._common import describe, given_values, selector_options, tree_in_use
from quantctl.commands._options import Choice
from quantctl.errors import DIFFERS, REFUSED, QuantctlError
from quantctl.lint.outline import Unknown
from quantctl.outside.packages import require
from quantctl.patches.patch import Patch
from quantctl.runs import modules
from quantctl.script.models import MODELS
from quantctl.script.training import TRAINING_CONFIGS
from quantctl.spec import NONE, SITES, canonical
from quantctl.spec.literals import SEPARATOR
from quantctl.spec.names import fold, unfold
from quantctl.tree.fit import IN_TE_LAYERS, asks
from quantctl.tree.selectors import SELECTORS
from quantctl.tree.state import PatchState, TreeState, read_state
from quantctl.tree.tree import Tree

if TYPE_CHECKING:
    from quantctl.lint.resolved import Table

MEGABYTE = 2**20
_MODEL = "llama32-1b"
_LACKING = (PatchState.AVAILABLE, PatchState.LEFT_TO_FORK)
_TE_PATCHES = {name for names in IN_TE_LAYERS.values() for name in names}


@contextlib.contextmanager
def _tree_to_run(tree: Tree, values: Mapping[str, str]) -> Iterator[Path]:
    """The tree itself, or a staged copy of it with `values` set."""
    if not values:
        yield tree.root
        return
    from quantctl.runs.stage import staged_copy

    with staged_copy(tree, values) as staged:
        yield staged


def _environment(root: Path, device: str | None) -> dict[str, str]:
    path = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"  # the tree is read only here
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "QUANTCTL_RUN_DIR"):
        environment.pop(name, None)
    if device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    return environment


def _start(command: list[str], root: Path, device: str | None) -> dict[str, Any] | str:
    """What the child found, or its error output when the model does not run."""
    # `-m` puts the current directory first on the path, so it must not be another tree
    done = subprocess.run(command, cwd=root, env=_environment(root, device), capture_output=True, text=True)
    if done.returncode == REFUSED:
        sys.stderr.write(done.stderr)
        raise click.exceptions.Exit(REFUSED)
    if done.returncode:
        return done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if not Path(result["imported_from"]).is_relative_to(root):
        raise QuantctlError(
            f"megatron.core was imported from {result['imported_from']}, not from {root}",
            "take the other tree off PYTHONPATH",
        )
    return result


def _refusal(model: str, root: Path, missing: list[Patch], said: str, trace: bool) -> QuantctlError:
    """Why the model does not run there: what was raised, and the patches that could help."""
    if trace:
        sys.stderr.write(said)
    last = (said.strip().splitlines() or ["no message"])[-1].strip()
    if missing:
        lacking = [f"  {patch.name}: {patch.why}" for patch in missing]
        return QuantctlError(
            "\n".join([f"the local layers of {root} cannot run {model}: {last}", "patches that it lacks:", *lacking]),
            "insert them with `quantctl patch`, or let a copy have them: give --mode",
        )
    hint = "the whole message is above" if trace else "--traceback shows the whole message"
    return QuantctlError(f"{model} does not run on {root}: {last}", hint)


def _problems(
    selectors: Mapping[str, str],
    hits: Mapping[str, Mapping[str, Any]],
    seen: Mapping[str, Mapping[str, Any]],
    by_module: modules.ByModule,
) -> list[str]:
    """Selectors without a product of theirs, and modules that ran past theirs; `seen`: of the modules, by site."""
    found = []
    for site in SITES:
        says = canonical(selectors.get(site, NONE), site)
        wanted = modules.wanted(site, says, by_module) - {NONE}
        if wanted and not wanted & hits.get(site, {}).keys():
            found.append(f"{site} says {says}, and no such product ran")
        elif says != NONE:
            past = modules.bypassed(site, says, {0: seen.get(site, {})})
            found += past or modules.misled(site, by_module)
    return found


def _table(model: str, root: Path, state: TreeState, release: str) -> tuple[Table | Unknown, int | None]:
    """What the selectors say of each module, and how long a training is meant where phases are shares of it.

    Raises QuantctlError for a rule of what the model does not have.
    """
    from quantctl.lint import resolved
    from quantctl.lint.case import Case, Setting
    from quantctl.lint.command import Command
    from quantctl.lint.megatron_flags import nearest
    from quantctl.lint.program import EMBEDDED
    from quantctl.smoke.flags import words

    setting = Setting(nearest(release), root, state)

    def asked(length: int | None) -> Case:
        return Case(Command(EMBEDDED, EMBEDDED, tuple(words(model, length))), setting)

    length = TRAINING_CONFIGS["smoke"].train_iters if resolved.has_shares(asked(None)) else None
    return resolved.table(asked(length)), length


def _held(table: Table | Unknown, found: list[str]) -> Table | Unknown:
    """The table, where the model consists of what its flags say; `found`: what computed products, folded."""
    if isinstance(table, Unknown):
        return table
    said = {module.name for modules in table.outline.modules.values() for module in modules}
    other = fold(said ^ {*unfold(found)})
    return Unknown(f"this tree builds another model than Megatron-LM's: {', '.join(other)}") if other else table


def _repeats(lines: list[str]) -> list[list[str]]:
    """Layer numbers and what they have in common: [["1", "dense"], ["2-27", "experts"]]."""
    rows, first = [], 1
    for text, group in itertools.groupby(lines):
        last = first + len(list(group)) - 1
        rows.append([str(first) if first == last else f"{first}-{last}", text])
        first = last + 1
    return rows


def _print(result: Mapping[str, Any], selectors: Mapping[str, str], table: list[str]) -> None:
    structure, losses = result["structure"], result["losses"]
    ((name, size),) = result["memory"].items()
    rows = [["model", f"{result['model']}, reduced: {result['parameters']:,} parameters on {result['device']}"]]
    rows += [["left out", f"{', '.join(result['left_out'])}: megatron-core {result['megatron_core']} has none"]] * bool(
        result["left_out"]
    )
    rows += [["attention", f"layer {layers}  {text}"] for layers, text in _repeats(structure["attention"])]
    rows += [["MLP", f"layer {layers}  {text}"] for layers, text in _repeats(structure["mlp"])]
    rows += [["loss", "  ".join(f"{loss:.6f}" for loss in losses)]]
    rows += [["memory", f"{size / MEGABYTE:,.0f} MB {name.removesuffix(' bytes')}"]]
    click.echo(output.columns(rows))
    click.echo()
    linear = [["linear layers", "count", "weight [out, in]"]]
    for kind, found in structure["linear"].items():
        linear.append([kind, str(found["layers"]), ", ".join(str(shape) for shape in found["shapes"])])
    click.echo(output.columns(linear))
    click.echo()
    if table:
        click.echo("\n".join([*table, ""]))
    counted = [["site", "selector", "ran as", "fprop", "dgrad", "wgrad"]]
    for site in SITES:
        specs = result["hits"].get(site) or {"-": {}}
        for spec, calls in specs.items():
            cells = [str(calls.get(product, 0)) for product in ("fprop", "dgrad", "wgrad")]
            says = selectors.get(site, "(not patched)")
            counted.append([site, "(as above)" if table and SEPARATOR in says else says, spec, *cells])
    click.echo(output.columns(output.folded(counted)))


@click.command(short_help="run a reduced model on the tree")
@click.argument("model", type=Choice(list(MODELS), "model"), default=_MODEL, metavar="[MODEL]")
@selector_options
@click.option(
    "--iterations", type=click.IntRange(min=1), default=1, show_default=True, help="Forward and backward passes."
)
@click.option("--device", type=Choice(["cpu", "cuda"]), help="Default: CUDA where there is a device.")
@click.option("--traceback", is_flag=True, help="Show where in its code a model that does not run was stopped.")
@click.pass_context
def command(
    ctx: click.Context,
    model: str,
    mode: str | None,
    iterations: int,
    device: str | None,
    traceback: bool,
    **specs: str | None,
) -> None:
    """Build MODEL's reduced architecture from the tree in use, run it forward and backward, count its products.

    MODEL is llama31-8b, llama32-1b (unless another is given) or deepseek2_lite.

    The selectors are those that the tree has now; with --mode or --linear and the like, those of a staged copy. The
    tree is not written to. Exit status 1 when a selector that is not none had no product.
    """
    values = given_values(mode, specs) or {}
    require("smoke", {"kernels": ("torch", "numpy")})
    tree = tree_in_use(ctx)
    output.say(f"tree: {describe(tree)}")
    with _tree_to_run(tree, values) as root:
        state = read_state(root)
        child = [sys.executable, "-W", "ignore", "-m", "quantctl.smoke", model, "--iterations", str(iterations)]
        table, length = _table(model, root, state, tree.version())
        child += ["--length", str(length)] if length else []
        result = _start([*child, *(["--device", device] if device else [])], root, device)
        if isinstance(result, str):
            # a copy has all that fit
            of_local = (patch for patch in state.available() if not patch.required and patch.name not in _TE_PATCHES)
            missing = [] if values else [*of_local]
            # the user's tree, not the copy of it
            raise _refusal(model, tree.root, missing, result.replace(str(root), str(tree.root)), traceback)
    selectors = {role: value for role, value in state.values().items() if role in SELECTORS}
    problems = _problems(selectors, result["hits"], result["modules"], result["by_module"])
    table = _held(table, result["structure"]["products"])
    if ctx.obj["json"]:
        document = None if isinstance(table, Unknown) else table.document()
        output.data({"tree": tree.root, **result, "selectors": selectors, "resolved": document, "problems": problems})
    else:
        _print(result, selectors, [] if isinstance(table, Unknown) else table.lines())
    if isinstance(table, Unknown):
        output.say(f"note: no table of the modules: {table.reason}")
    others = {role for role in ("linear", "qk", "pv") if any(state.patches[p] in _LACKING for p in IN_TE_LAYERS[role])}
    if unread := [role for role, value in selectors.items() if role in others and asks(role, value)]:
        output.say(f"note: these were local layers; Transformer Engine's of this tree do not read {', '.join(unread)}")
    for problem in problems:
        output.say(f"problem: {problem}")
    if problems:
        ctx.exit(DIFFERS)
