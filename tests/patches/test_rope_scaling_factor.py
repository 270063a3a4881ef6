"""`--rope-scaling-factor` reaches the model: excerpts of each place, and the real entry points where there are any.

Wheels hold none of pretrain_gpt.py and gpt_builders.py; from 0.19 on they hold the third place. QUANTCTL_MEGATRON_MAIN
names a Megatron-LM checkout for the other two.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from warm_python import python

from quantctl.patches.rope_scaling_factor import PATCHES
from quantctl.tree.edit.insert import insert
from quantctl.tree.state import PatchState, read_state

HARNESS = Path(__file__).resolve().parents[1] / "support" / "rope_factor.py"
PLACES = {patch.name.partition(":")[2]: patch for patch in PATCHES}

CALL = """\
import megatron


def {function}(args):
    if args.use_legacy_models:
        model = megatron.legacy.model.GPTModel(config, parallel_output=True)
    else:
        model = GPTModel(
            config=config,
            rope_scaling=args.use_rope_scaling{last}
        )
    return model
"""
ENTRY = """\
import os


def gpt_config_from_args(args):
    kwargs["rope_scaling"] = args.use_rope_scaling{more}
    return kwargs


def hybrid_config_from_args(args):
    return kwargs
"""
FACTOR = "getattr(args, 'rope_scaling_factor', 8.0)"
ADDED = f",\n            rope_scaling_factor={FACTOR}"
EXCERPTS = {
    "pretrain_gpt": ("pretrain_gpt", "model_provider", "", ADDED),
    "gpt_builders": ("gpt_builders", "gpt_builder", ",", f"{ADDED},"),
}


@pytest.mark.parametrize(("place", "function", "before", "after"), EXCERPTS.values(), ids=EXCERPTS)
def test_the_model_gets_the_factor(place, function, before, after):
    patch = PLACES[place]
    stock, expected = (CALL.format(function=function, last=last) for last in (before, after))
    assert insert(stock.encode(), patch.file, patch.edits, patch.header).decode() == expected


def test_the_configuration_gets_the_factor():
    patch = PLACES["argument_utils"]
    more = f'\n    kwargs["rope_scaling_factor"] = {FACTOR}  # quantctl: --rope-scaling-factor'
    patched = insert(ENTRY.format(more="").encode(), patch.file, patch.edits, patch.header).decode()
    assert patched == ENTRY.format(more=more)


NAME = b"rope_scaling_factor"
STATES = {
    "needed": (b"GPTModel(rope_scaling=args.use_rope_scaling)", NAME, PatchState.AVAILABLE),
    "GPTModel takes no factor": (b"GPTModel(rope_scaling=args.use_rope_scaling)", b"", PatchState.NOT_APPLICABLE),
    "wired already": (b"GPTModel(rope_scaling=args.use_rope_scaling, " + NAME + b"=32)", NAME, PatchState.NOT_NEEDED),
    "another script": (b"print('hello')", NAME, PatchState.NOT_NEEDED),
}


@pytest.mark.parametrize(("script", "model", "expected"), STATES.values(), ids=STATES)
def test_where_it_is_needed(stock_copy, script, model, expected):
    tree = stock_copy("0.16.1")
    (tree / "gpt_builders.py").write_bytes(script)
    gpt_model = tree / "megatron/core/models/gpt/gpt_model.py"
    gpt_model.write_bytes(gpt_model.read_bytes().replace(NAME, model or b"factor"))
    assert read_state(tree).patches["rope_scaling_factor:gpt_builders"] is expected


def factors(tree: Path) -> dict[str, float]:
    done = python(HARNESS, env={**os.environ, "PYTHONPATH": str(tree)})
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["tree"].startswith(str(tree))
    return result["factors"]


@pytest.mark.parametrize(("release", "places"), [("0.19.0", 1), ("main", 2)])
def test_real_entry_points_build_the_model_that_was_asked_for(megatron_tree, patched, release, places):
    """The harness asks for 32 and compares the model's frequencies with Llama's formula."""
    stock = factors(megatron_tree(release))
    assert list(stock.values()) == [8.0] * places
    assert factors(patched(release)) == dict.fromkeys(stock, 32.0)
