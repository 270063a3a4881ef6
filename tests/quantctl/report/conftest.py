"""Runs as their trainers leave them, with losses of the test's choosing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from quantctl.modes import mode_selectors

LINE = (
    " [2026-11-21 00:28:37.086150] iteration {iteration:8d}/{total:8d} | consumed samples: {samples:12d} | "
    "elapsed time per iteration (ms): {ms:.1f} | learning rate: 1.000000E-03 | global batch size: {batch:5d} |{loss} "
    "loss scale: 1.0 | grad norm: 1.760 | number of skipped iterations:   0 | number of nan iterations:   0 |"
)


def log(losses: Mapping[int, float | None], total: int, ms: float = 100.0) -> str:
    """Megatron's lines; a loss of None is one that is not finite, which Megatron leaves out."""
    rows = []
    for iteration, loss in losses.items():
        field = "" if loss is None else f" lm loss: {loss:.6E} |"
        rows.append(LINE.format(iteration=iteration, total=total, samples=8 * iteration, ms=ms, batch=8, loss=field))
    return "\n".join(rows) + "\n"


@pytest.fixture
def run_directory(tmp_path: Path) -> Callable[..., Path]:
    """Function that writes a run directory: run_directory("bf16", 1, {1: 7.0, 2: 6.0})."""

    def make(mode: str, seed: int, losses: Mapping[int, float | None], **changed: Any) -> Path:
        total = changed.pop("total", max(losses, default=1))
        folder = tmp_path / changed.pop("name", f"{mode}-{seed}")
        folder.mkdir()
        text = log(losses, total, changed.pop("ms", 100.0))
        (folder / "log.txt").write_text(text + changed.pop("more", ""))
        selectors = mode_selectors(mode) | changed.pop("selectors", {})
        flags = {"--lr": "0.004", "--seq-length": "128", "--data-path": "data/wiki", "--train-iters": str(total)}
        flags |= {"--seed": str(seed), "--save": str(folder / "checkpoints")} | changed.pop("flags", {})
        command = ["python", "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "quantctl.pretrain"]
        attempt = {
            "command": [*command, *(word for pair in flags.items() for word in pair), "--swiglu"],
            "start": "2026-11-21T00:00:00+00:00",
            "megatron_core": "0.16.1",
            "code": "1111",
            "packages": {"torch": "2.13.0", "megatron-core": "0.16.1"},
            "exit_status": 0,
            "proof": True,
        } | changed.pop("attempt", {})
        attempts = [attempt] * changed.pop("attempts", 1)
        (folder / "manifest.json").write_text(json.dumps({"selectors": selectors, "attempts": attempts}))
        calls = {site: {spec: {"fprop": 10, "dgrad": 10}} for site, spec in selectors.items() if spec != "none"}
        proof = {"ok": True, "problems": [], "calls": calls} | changed.pop("proof", {})
        (folder / "proof.json").write_text(json.dumps(proof))
        assert not changed
        return folder

    return make
