"""`quantctl list`: the registry of models, datasets, modes and training configs."""

from __future__ import annotations

import dataclasses
import json
import sys

import click

from quantctl.modes import SCRIPT_MODES, mode_selectors
from quantctl.spec import SITES

Rows = list[tuple[str, ...]]


def _tables() -> dict[str, tuple[tuple[str, ...], Rows]]:
    """Title -> header and rows."""
    from quantctl.script.datasets import DATASETS
    from quantctl.script.models import MODELS
    from quantctl.script.parameters import active_parameters, parameters
    from quantctl.script.training import TRAINING_CONFIGS

    return {
        "model": (
            ("name", "title", "parameters", "active", "layers", "hidden", "heads"),
            [
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
            ],
        ),
        "dataset": (
            ("name", "title", "split", "sample path"),
            [(row.name, row.title, row.split, row.sample_path) for row in DATASETS.values()],
        ),
        "mode": (
            ("name", *SITES),
            [(mode, *(mode_selectors(mode)[site] for site in SITES)) for mode in SCRIPT_MODES],
        ),
        "training config": (
            ("name", "steps", "sequences a step", "what"),
            [
                (row.name, str(row.train_iters), str(row.global_batch_size), row.summary)
                for row in TRAINING_CONFIGS.values()
            ],
        ),
    }


def _data() -> dict[str, object]:
    from quantctl.script.datasets import DATASETS
    from quantctl.script.models import MODELS
    from quantctl.script.render import FOLDER, relative_path
    from quantctl.script.training import TRAINING_CONFIGS

    return {
        "models": {name: dataclasses.asdict(row) for name, row in MODELS.items()},
        "datasets": {name: dataclasses.asdict(row) for name, row in DATASETS.items()},
        "modes": {mode: mode_selectors(mode) for mode in SCRIPT_MODES},
        "training_configs": {name: dataclasses.asdict(row) for name, row in TRAINING_CONFIGS.items()},
        "scripts": [
            {"model": m, "dataset": d, "mode": q, "path": str(FOLDER / relative_path(m, d, q))}
            for m in MODELS
            for d in DATASETS
            for q in SCRIPT_MODES
        ],
    }


def _print_tables() -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for title, (header, rows) in _tables().items():
        table = Table(title=f"{title}s", title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for column in header:
            table.add_column(column)
        for row in rows:
            table.add_row(*row)
        console.print(table)
        console.print()


@click.command()
@click.pass_context
def command(ctx: click.Context) -> None:
    """Show the models, datasets, modes and training configs.

    On a pipe: one row a line, its kind first, separated by tabs.
    """
    if ctx.obj["json"]:
        click.echo(json.dumps(_data(), indent=2))
    elif sys.stdout.isatty():
        _print_tables()
    else:
        for title, (_, rows) in _tables().items():
            for row in rows:
                click.echo("\t".join((title, *row)))
