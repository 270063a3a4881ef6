"""Experts, heads and samples over ranks: the weights, routes, losses and gradients of one process.

64 experts on a patched 0.16.1, at expert parallel 4 (16 a rank), tensor and sequence parallel 4, both, and expert
parallel 2 with two data-parallel copies of every expert.

Equal in every bit: the weights, which every rank draws whole and then splits, and the routes. Losses and gradients are
sums in another order. They are computed in float64, so they differ by its rounding, u = 2^-53, times an amplification
that is the network's; TOLERANCE allows for 2^23 of that. A missing part, a wrong divisor or a foreign expert changes a
gradient by at least 1/64 of it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from warm_python import python

from quantctl.patches.registry import PATCHES
from quantctl.tree.state import plan, read_state

PROBE = Path(__file__).with_name("probe_parallel.py")
LAYOUTS = {
    "expert parallel": "4x1x4",
    "tensor parallel": "4x4x1",
    "tensor and expert parallel": "4x2x4",
    "data parallel copies of experts": "4x1x2",
}
LOCAL_EXPERTS = {"4x1x4": 16, "4x4x1": 64, "4x2x4": 16, "4x1x2": 32}
TOLERANCE = 2.0**-30


def saved(tree: Path, folder: Path, *layouts: str) -> dict[str, list[dict]]:
    """Layout to what each rank of probe_parallel.py saved."""
    done = python(PROBE, str(folder), *layouts, env={**os.environ, "PYTHONPATH": str(tree)})
    assert done.returncode == 0, done.stderr
    return {
        layout: [torch.load(file) for file in sorted((folder / layout).iterdir(), key=lambda file: int(file.stem))]
        for layout in layouts
    }


@pytest.fixture(scope="module")
def patched_tree(megatron_tree, tmp_path_factory) -> Path:
    tree = tmp_path_factory.mktemp("tree")
    shutil.copytree(megatron_tree("0.16.1") / "megatron", tree / "megatron")
    for file, raw in plan(read_state(tree), {}).items():
        (tree / file).write_bytes(raw)
    return tree


@pytest.fixture(scope="module")
def layouts(patched_tree, tmp_path_factory) -> dict[str, list[dict]]:
    """`1x1x1` is one process."""
    return saved(patched_tree, tmp_path_factory.mktemp("ranks"), "1x1x1", *LAYOUTS.values())


def whole(parts: list[torch.Tensor], dim: int, stride: int) -> torch.Tensor:
    """A parameter from the parts of the tensor parallel ranks; with a stride each part holds pieces of each stripe."""
    pieces = [part.chunk(stride, dim) for part in parts]
    return torch.cat([piece[stripe] for stripe in range(stride) for piece in pieces], dim)


def assemble(ranks: list[dict], what: str) -> dict[str, torch.Tensor]:
    """`what` (weight, gradient) of the whole model, and equal on all ranks that hold the same part."""
    found: dict[str, torch.Tensor] = {}
    for name, own in ranks[0]["parameters"].items():
        by_experts = sorted({rank["expert_rank"] for rank in ranks}) if own["expert"] else [None]
        for expert_rank in by_experts:
            holders = [rank for rank in ranks if expert_rank in (None, rank["expert_rank"])]
            split = own["dim"] is not None and not own["expert"]
            shards: dict[int, torch.Tensor] = {}
            for rank in holders:
                part = rank["parameters"][name][what]
                shard = shards.setdefault(rank["tensor_rank"] if split else 0, part)
                assert torch.equal(shard, part), f"{name}: copies differ"
            tensors = [shards[key] for key in sorted(shards)]
            full = whole(tensors, own["dim"], own["stride"]) if split else tensors[0]
            found[name if expert_rank is None else globally(name, expert_rank, ranks[0])] = full
    return found


def globally(name: str, expert_rank: int, rank: dict) -> str:
    """The name under which one process knows a local expert's parameter."""
    head, number, tail = name.partition("local_experts.")[0], *name.partition("local_experts.")[2].split(".", 1)
    return f"{head}local_experts.{int(number) + expert_rank * rank['local_experts'][0]}.{tail}"


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_weights_are_those_of_one_process_in_every_bit(layouts, layout) -> None:
    one, many = assemble(layouts["1x1x1"], "weight"), assemble(layouts[layout], "weight")
    assert {rank["local_experts"][0] for rank in layouts[layout]} == {LOCAL_EXPERTS[layout]}
    assert many.keys() == one.keys()
    assert len([name for name in one if "local_experts" in name]) == 2 * 64
    for name, weight in one.items():
        assert torch.equal(many[name], weight), name


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_routes_and_losses_are_those_of_one_process(layouts, layout) -> None:
    (one,), ranks = layouts["1x1x1"], layouts[layout]
    samples = {rank["data_rank"]: rank["losses"] for rank in ranks}
    losses = [samples[i % len(samples)][i // len(samples)] for i in range(4)]
    assert losses == pytest.approx(one["losses"], rel=TOLERANCE)
    assert one["losses"][0] > 1
    # [samples, tokens, experts]; sequence parallel ranks route consecutive tokens
    routes = {}
    for rank in ranks:
        routes.setdefault(rank["data_rank"], {})[rank["tensor_rank"]] = rank["routed"]
    for data_rank, parts in routes.items():
        routed = torch.cat([parts[key] for key in sorted(parts)], dim=1)
        assert torch.equal(routed, one["routed"][data_rank :: len(routes)])
        assert (routed.sum(-1) == 6).all()
    # 64 float32 products, summed: off by 64 u at most
    for rank in ranks:
        assert rank["balance"] == pytest.approx(one["balance"], rel=64 * 2**-24)
    assert one["balance"]["seq_load_balancing_loss"] > 1


def differing(one: dict[str, torch.Tensor], many: dict[str, torch.Tensor]) -> list[str]:
    assert many.keys() == one.keys()
    return [name for name in one if (many[name] - one[name]).abs().max() > TOLERANCE * one[name].abs().max()]


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_reduced_gradients_are_those_of_one_process(layouts, layout) -> None:
    (alone,) = layouts["1x1x1"]
    one = assemble([alone], "gradient")
    assert differing(one, assemble(layouts[layout], "gradient")) == []
    used = alone["routed"].flatten(0, 1).any(0)
    assert 48 < used.sum() < 64  # some experts get no token
    for name, gradient in one.items():
        expert = name.partition("local_experts.")[2].partition(".")[0]
        assert gradient.any() == (not expert or bool(used[int(expert)])), name
    exact = sum(gradient.square().sum().item() for gradient in one.values()) ** 0.5
    for rank in (alone, *layouts[layout]):
        assert rank["norm"] == pytest.approx(exact, rel=TOLERANCE)


def test_without_its_patch_tensor_parallel_loses_the_rotary_gradient(layouts, patched_tree, tmp_path) -> None:
    (patch,) = (patch for patch in PATCHES if patch.name == "mla_tensor_parallel")
    tree = Path(shutil.copytree(patched_tree, tmp_path / "tree"))
    text = (tree / patch.file).read_text()
    assert text.count("kv_combined.register_hook(sum_rotary_part)") == 1
    (tree / patch.file).write_text(text.replace("kv_combined.register_hook(sum_rotary_part)", "pass"))
    one, many = assemble(layouts["1x1x1"], "gradient"), assemble(saved(tree, tmp_path, "4x4x1")["4x4x1"], "gradient")
    last = "decoder.layers.1.self_attention.linear_kv_down_proj.weight"
    # what the backward pass reaches before that weight is right, and so are its 32 rows for the compressed vector
    assert "decoder.layers.1.self_attention.linear_kv_up_proj.weight" not in differing(one, many)
    assert last in differing(one, many)
    error = (many[last] - one[last]).abs().amax(1) / one[last].abs().amax(1)
    assert (error[:32] <= TOLERANCE).all()
    assert (error[32:] > 0.1).all()
