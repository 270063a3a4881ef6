"""Every release of megatron-core, and Megatron-LM's main: edited, restored, trained. `make releases` prints the table.

QUANTCTL_MEGATRON_MAIN names a checkout of main; golden/main.diff is for its commit d98e8a64 of 22 August 2026.
`python -m pytest tests/patches/test_releases.py -k golden --update-golden` writes the golden files anew.

Golden diffs of all releases run always, edits of each but 0.19.0, which 0.19.2 stands for. Training runs always for
0.16.1 and for the newest release; the others train under the marker `releases`.
"""

from __future__ import annotations

import difflib
import importlib.util
import stat
from pathlib import Path

import pytest
import stock_table
from daily import RELEASES, daily

from quantctl.patches import transformer_engine
from quantctl.patches.registry import PATCHES
from quantctl.tree.edit.insert import insert

GOLDEN = Path(__file__).parent / "golden"
IMPORT_TRITON = ("0.18.2", "0.19.0", "0.19.2", "main")

EDITED = daily(set(RELEASES) - {"0.19.0"})
TRAINED = daily(("0.16.1", "0.19.2"))
VALUES = {
    "linear": "mxfp8",
    "lm_head": "mxfp8:scale=floor",
    "qk": "mxfp8:elem=e5m2",
    "pv": "mxfp8:round=away",
}
STEPS = {
    "untied": (),
    "biases": ("--bias",),
    "fused": ("--bias", "--fused"),
    "tied, with biases and a frozen weight": ("--tied", "--bias", "--freeze"),
}


def contents(tree: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in tree.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(tree)): (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) for path in files}


def changed(before: dict, after: dict) -> set[str]:
    return {file for file in before.keys() | after.keys() if before.get(file) != after.get(file)}


def asked(values: dict[str, str]) -> str:
    return ",".join(f"{role}={value}" for role, value in values.items())


@pytest.mark.parametrize("release", EDITED)
def test_edits(quantctl, stock_copy, release, record_property):
    tree = stock_copy(release)
    stock = contents(tree)

    def succeed(*arguments):
        done = quantctl("--megatron", tree, *arguments)
        assert done.status == 0, done.err
        now = contents(tree)
        for file in changed(stock, now):
            compile(now[file][0], file, "exec")
        record_property("done", arguments[0])
        return now

    patched = succeed("patch")
    assert changed(stock, patched) >= {patch.file for patch in PATCHES if patch.required}
    options = [part for role, value in VALUES.items() for part in (f"--{role.replace('_', '-')}", value)]
    selected = succeed("set", *options)
    assert changed(patched, selected) == {"megatron/core/" + file for file in SELECTED_FILES}
    succeed("check", "--expect", asked(VALUES))
    assert succeed("restore") == stock


SELECTED_FILES = ("tensor_parallel/layers.py", "transformer/dot_product_attention.py")


@pytest.mark.parametrize("release", RELEASES)
def test_golden(megatron_tree, release, request, record_property):
    """What is inserted wherever selectors act, as a maintainer would review it: hunks without context."""
    hunks = []
    for patch in PATCHES:
        if patch.required or patch in transformer_engine.PATCHES:
            stock = (megatron_tree(release) / patch.file).read_bytes()
            lines = [
                text.decode().splitlines(keepends=True)
                for text in (stock, insert(stock, patch.file, patch.edits, patch.header))
            ]
            hunks += difflib.unified_diff(*lines, f"a/{patch.file}", f"b/{patch.file}", n=0)
    golden = GOLDEN / f"{release}.diff"
    if request.config.getoption("--update-golden"):
        golden.write_text("".join(hunks))
    assert "".join(hunks) == golden.read_text()
    record_property("done", "golden")


@pytest.mark.parametrize("release", RELEASES)
def test_known_code(megatron_tree, release, request):
    """patches/stock.json: what a fast path may leave out, and which functions with products are the release's own."""
    row = stock_table.row_of(megatron_tree(release))
    if request.config.getoption("--update-golden"):
        stock_table.update({release: row})
    assert stock_table.read()[release] == row


def importable(release: str) -> None:
    if release in IMPORT_TRITON and importlib.util.find_spec("triton") is None:
        pytest.skip("imports triton, which is not installed")


@pytest.mark.parametrize("release", TRAINED)
def test_none_is_stock_in_every_bit(megatron_tree, patched, train, release, record_property):
    importable(release)
    before = train(megatron_tree(release), *STEPS.values())
    after = train(patched(release), *STEPS.values())
    assert after == before
    for step in after:
        assert not step["quantctl_imported"]
        assert step["gradients"]
    record_property("done", "none-identity")


def expected_hits(frozen_weights: int) -> dict:
    """Two layers of four linear products (qkv, proj, fc1, fc2) and one attention each; one output layer."""
    calls = {"linear": 8, "lm_head": 1, "qk": 2, "pv": 2}
    hits = {site: {VALUES[site]: dict.fromkeys(("fprop", "dgrad", "wgrad"), n)} for site, n in calls.items()}
    hits["linear"][VALUES["linear"]]["wgrad"] -= frozen_weights
    return hits


@pytest.mark.parametrize("release", TRAINED)
def test_each_selector_reaches_its_products_and_no_others(patched, train, release, record_property):
    importable(release)
    results = dict(zip(STEPS, train(patched(release, **VALUES), *STEPS.values()), strict=True))
    for name, step in results.items():
        assert step["hits"] == expected_hits(frozen_weights=int("--freeze" in STEPS[name])), name
    fused = results["fused"]
    assert fused["fused"] == {"operands": 18, "plain": 0, "quantized": 18}
    assert fused["gradients"] == results["biases"]["gradients"]
    record_property("done", "hits")
