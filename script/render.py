"""The 60 scripts: models x datasets x modes through one template."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from quantctl.modes import SCRIPT_MODES, mode_selectors
from quantctl.script import flags
from quantctl.script.architecture import Architecture, Model, Recipe
from quantctl.script.datasets import DATASETS, Dataset
from quantctl.script.models import MODELS
from quantctl.script.platforms import PLATFORMS
from quantctl.script.training import OPTIMIZER, SEED, TRAINING_CONFIGS

FOLDER = Path(__file__).parent
"""Where the template is, and where the scripts of this installation are."""
TEMPLATE = "template.sh.j2"
_WIDTH = 116
DEFAULT_PLATFORM = next(iter(PLATFORMS))


def stem(model: str, dataset: str, mode: str) -> str:
    """What a run is called: the middle of the script's name and of its run directory's."""
    return f"{model}_{dataset}_{mode}"


def relative_path(model: str, dataset: str, mode: str) -> Path:
    """Where a script lies under script/."""
    return Path(model) / f"pretrain_{stem(model, dataset, mode)}.sh"


def _quote(token: str) -> str:
    """A word of bash; with commas quoted, which shellcheck takes for separators meant for an array."""
    return token if re.fullmatch(r"[\w./+-]+", token, re.ASCII) else "'" + token.replace("'", "'\\''") + "'"


def _words(lines: Iterable[flags.Line]) -> str:
    return " ".join(_quote(token) for line in lines for token in line)


def _rows(lines: Iterable[flags.Line], level: int = 1) -> str:
    """As many flags as fit on a line; one is never parted from its values."""
    rows = [""]
    for text in (_words([line]) for line in lines):
        row = f"{rows[-1]} {text}" if rows[-1] else text
        if 4 * level + len(row) <= _WIDTH:
            rows[-1] = row
        else:
            rows.append(text)
    return "\n".join("    " * level + row for row in rows)


def _variant(arch: Architecture, recipe: Recipe, smoke: bool) -> dict[str, list[flags.Line]]:
    return {
        "model": flags.architecture(arch),
        "recipe": flags.recipe(recipe),
        "parallel": flags.parallel(recipe, smoke),
    }


def render(
    model: Model, dataset: Dataset, mode: str, platform: str = DEFAULT_PLATFORM, directives: Iterable[str] = ()
) -> str:
    """The text of one script: with `platform` as the default of PLATFORM, and sbatch's `directives` at its top."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # bash's ${#array[@]} would open a comment
        comment_start_string="{##",
        comment_end_string="##}",
    )
    full = _variant(model.full, model.full_recipe, smoke=False)
    smoke = _variant(model.smoke, model.smoke_recipe, smoke=True)
    # what the reduced model shares with the true one is said once
    common = [line for line in full["model"] if line in smoke["model"]]
    for variant in (full, smoke):
        variant["model"] = [line for line in variant["model"] if line not in common]
    configs = list(TRAINING_CONFIGS.values())
    return environment.get_template(TEMPLATE).render(
        model=model,
        dataset=dataset,
        mode=mode,
        sites=", ".join(f"{site} {spec}" for site, spec in mode_selectors(mode).items()),
        name=relative_path(model.name, dataset.name, mode).name,
        configs=configs,
        full_names=[config.name for config in configs if not config.smoke],
        smoke_names=[config.name for config in configs if config.smoke],
        seed=SEED,
        layers=flags.LOCAL_LAYERS,
        implementations=list(flags.LAYERS),
        model_common=common,
        full=full,
        smoke=smoke,
        optimizer=flags.optimizer(OPTIMIZER),
        steps={config.name: flags.steps(config) for config in configs},
        logging={config.name: [*flags.logging(config), *flags.saving(config)] for config in configs},
        quote=_quote,
        rows=_rows,
        words=_words,
        platforms=list(PLATFORMS.values()),
        platform=platform,
        directives=list(directives),
    )


def render_all(
    platform: str = DEFAULT_PLATFORM, directives: Callable[[str, int], Sequence[str]] | None = None
) -> dict[Path, str]:
    """Path under script/ -> text, for all 60. directives: from a training's name and its devices a node to the options
    that stand in its script for sbatch; none where it is None.
    """
    devices = next(iter(TRAINING_CONFIGS.values())).gpus_per_node
    scripts = {}
    for model in MODELS.values():
        for dataset in DATASETS.values():
            for mode in SCRIPT_MODES:
                name = stem(model.name, dataset.name, mode)
                lines = [] if directives is None else directives(name, devices)
                path = relative_path(model.name, dataset.name, mode)
                scripts[path] = render(model, dataset, mode, platform, lines)
    return scripts
