"""The trainer's flags of a reduced model: those of its smoke script, on a vocabulary of 2,048."""

from __future__ import annotations

from quantctl.script import flags
from quantctl.script.models import MODELS

SEQUENCES = 2


def words(model: str, steps: int | None) -> list[str]:
    """As the embedded trainer takes them; steps: of the training whose beginning a smoke run is, if that matters."""
    row = MODELS[model]
    lines = [*flags.LOCAL_LAYERS, *flags.architecture(row.smoke), *flags.recipe(row.smoke_recipe)]
    lines += [("--train-iters", str(steps))] if steps else []
    lines += [("--micro-batch-size", str(SEQUENCES)), ("--lr-decay-style", "constant")]
    lines += [("--mock-data",), ("--tokenizer-type", "NullTokenizer"), ("--vocab-size", "2047")]
    return [word for line in lines for word in line]
