"""`quantctl list`: the registry of models, datasets, modes, recipes, formats, training configs and platforms."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence

import click

from quantctl import output
from quantctl.commands._options import Choice
from quantctl.modes import MODES, SCRIPT_MODES, mode_selectors
from quantctl.spec import FORMATS, NONE, SITES, names_of
from quantctl.spec.recipes import RECIPES


@dataclasses.dataclass(frozen=True)
class Table:
    """One kind of what there is, for people."""

    kind: str
    """Of one row, in front of it on a pipe."""
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""
    """A sentence below the table."""


def _models() -> Table:
    from quantctl.script.models import MODELS
    from quantctl.script.parameters import active_parameters, parameters

    rows = [
        (
            model.name,
            model.title,
            f"{parameters(model.full) / 1e9:.2f}B",
            f"{active_parameters(model.full) / 1e9:.2f}B",
            str(model.full.num_layers),
            str(model.full.hidden_size),
            str(model.full.num_attention_heads),
        )
        for model in MODELS.values()
    ]
    return Table("model", ("name", "title", "parameters", "active", "layers", "hidden", "heads"), rows)


def _datasets() -> Table:
    from quantctl.script.datasets import DATASETS

    rows = [(row.name, row.title, row.split, row.sample_path) for row in DATASETS.values()]
    return Table("dataset", ("name", "title", "split", "sample path"), rows, "Your own: --data PREFIX.")


def _modes() -> Table:
    rows = [
        (mode, *(values[site] for site in SITES), "yes" if mode in SCRIPT_MODES else "-")
        for mode, values in MODES.items()
    ]
    note = "In a mode's place selectors, as in 'linear=mxfp8:scale=floor qk=mxfp4'; of several a comma-separated list."
    return Table("mode", ("name", *SITES, "scripts"), rows, note)


def _recipes() -> Table:
    rows = [(name, row.linear, row.source, row.omits) for name, row in RECIPES.items()]
    note = "--mode takes them as it does modes. The literal is that of --linear; lm_head, qk and pv stay as they are."
    return Table("recipe", ("name", "linear", "source", "left out, or otherwise here"), rows, note)


_GRAMMAR = """\
A literal: FORMAT[:OPTION,...][; CONDITION ...: SPEC or OPTIONS]...
An option is KEY=VALUE, the first value the default (bwd of qk and pv:
dequantized), behind the operand and product that it is for. The narrower scope
wins, and of the rules the last that fits. Two dozen in words: docs/formats.md.

  mxfp4:gradient.round=stochastic        input, weight, gradient; query, key;
                                         probabilities, value
  mxfp4:wgrad.format=mxfp8               fprop, dgrad, wgrad; wgrad.input.round=
  mxfp4; layers 1-2,-1: none             from 1, from the end, ..10%, 85%..
  mxfp8; linear_fc2: none; mlp: mxfp4    globs for modules' names; attention,
                                         mlp, experts, shared_experts, mtp
  mxfp4; from 80%: fprop.format=none     from, until: a step or a share of the
                                         training; evaluation

What the options mean: docs/numerics.md."""


def _formats() -> Table:
    shared = {key: values for key, values in FORMATS["mxfp8"].items() if all(key in own for own in FORMATS.values())}
    shared.pop("round")  # of which not all have the same values
    rows = [
        (" ".join(names_of(name)), _options({key: values for key, values in options.items() if key not in shared}))
        for name, options in FORMATS.items()
    ]
    rows += [("all of these", _options(shared)), (" ".join(names_of(NONE)), "-")]
    return Table("format", ("name", "options"), rows, _GRAMMAR)


def _options(options: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{key}: {'|'.join(values)}" for key, values in options.items())


def _configs() -> Table:
    from quantctl.script.training import TRAINING_CONFIGS

    rows = [
        (row.name, str(row.train_iters), str(row.global_batch_size), row.summary) for row in TRAINING_CONFIGS.values()
    ]
    return Table("training config", ("name", "steps", "sequences a step", "what"), rows)


def _platforms() -> Table:
    from quantctl.script.platforms import PLATFORMS

    return Table("platform", ("name", "what"), [(row.name, row.summary) for row in PLATFORMS.values()])


KINDS = {
    "models": _models,
    "datasets": _datasets,
    "modes": _modes,
    "recipes": _recipes,
    "formats": _formats,
    "configs": _configs,
    "platforms": _platforms,
}
"""What can be asked for -> its table."""
_KEYS = {"configs": "training_configs"}
"""What a kind is called in the JSON, where that is another word."""


def _data() -> dict[str, object]:
    from quantctl.script.datasets import DATASETS
    from quantctl.script.models import MODELS
    from quantctl.script.platforms import PLATFORMS
    from quantctl.script.render import FOLDER, relative_path
    from quantctl.script.training import TRAINING_CONFIGS

    return {
        "models": {name: dataclasses.asdict(row) for name, row in MODELS.items()},
        "datasets": {name: dataclasses.asdict(row) for name, row in DATASETS.items()},
        "modes": {mode: mode_selectors(mode) for mode in MODES},
        "recipes": {name: row._asdict() for name, row in RECIPES.items()},
        "formats": FORMATS,
        "training_configs": {name: dataclasses.asdict(row) for name, row in TRAINING_CONFIGS.items()},
        "platforms": {name: dataclasses.asdict(row) for name, row in PLATFORMS.items()},
        "scripts": [
            {"model": m, "dataset": d, "mode": q, "path": str(FOLDER / relative_path(m, d, q))}
            for m in MODELS
            for d in DATASETS
            for q in SCRIPT_MODES
        ],
    }


def _print_tables(kinds: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table as Rich

    console = Console(highlight=False)
    for kind in kinds:
        table = KINDS[kind]()
        shown = Rich(title=kind, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for column in table.header:
            shown.add_column(column, overflow="fold")
        for row in table.rows:
            shown.add_row(*(cell.replace("|", ", ") for cell in row))  # which wraps where the terminal is narrow
        console.print(shown)
        if table.note:
            console.print(table.note, markup=False)
        console.print()


@click.command()
@click.argument("kinds", nargs=-1, type=Choice(list(KINDS), "kind"), metavar=f"[{'|'.join(KINDS)}]...")
@click.pass_context
def command(ctx: click.Context, kinds: tuple[str, ...]) -> None:
    """Show models, datasets, modes, recipes, formats, training configs and platforms, or only some of these.

    On a pipe: one row a line, its kind first, separated by tabs.
    """
    if ctx.obj["json"]:
        data = _data()
        output.data({_KEYS.get(kind, kind): data[_KEYS.get(kind, kind)] for kind in kinds} if kinds else data)
    elif sys.stdout.isatty():
        _print_tables(kinds or tuple(KINDS))
    else:
        for table in (KINDS[kind]() for kind in kinds or KINDS):
            for row in table.rows:
                click.echo("\t".join((table.kind, *row)))
