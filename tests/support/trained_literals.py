"""Trains a smoke configuration a few steps for each literal: what every module computed, as a run records it.

    python trained_literals.py FILE     FILE: JSON, a list of [model, site, literal, run directory]

The tree is the one on PYTHONPATH, patched. A process a literal, forked, so that Megatron is imported once. The training
counts as one of STEPS steps, of which those of TRAINED are computed, and an evaluation behind them.
"""

import json
import multiprocessing
import os
import sys
from pathlib import Path

STEPS = 2000
TRAINED = (1, 2000)


def train(model_name, site, literal, folder):
    os.environ["QUANTCTL_RUN_DIR"] = folder
    import torch
    from megatron.core.tensor_parallel import layers
    from megatron.core.transformer import dot_product_attention

    from quantctl.kernels.measure import hits, steps
    from quantctl.pretrain import parallel
    from quantctl.pretrain.model import build_model
    from quantctl.smoke.__main__ import arguments

    setattr(dot_product_attention if site in ("qk", "pv") else layers, f"custom_quant_type_{site}", literal)
    (Path(folder) / "proof").mkdir(parents=True)
    (Path(folder) / "proof" / "import-0-1.json").write_text('{"rank": 0}')
    args = arguments(model_name, STEPS)
    device = parallel.start(args)
    model = build_model(args, device, [])
    tokens = torch.randint(0, args.padded_vocab_size, (1, args.seq_length + 1))
    positions = torch.arange(args.seq_length).expand(1, -1)
    mask = torch.ones(args.seq_length, args.seq_length, dtype=torch.bool).triu(1)[None, None]
    batch = (tokens[:, :-1].contiguous(), positions, mask)
    for step in TRAINED:
        steps.begin(step)
        model(*batch, labels=tokens[:, 1:].contiguous()).float().mean().backward()
    model.eval()
    with torch.no_grad():
        model(*batch)
    hits.write()


def main():
    import megatron.core.models.gpt  # noqa: F401, all that a training would import

    import quantctl.kernels.linear
    import quantctl.kernels.modules
    import quantctl.pretrain.model  # noqa: F401

    fork = multiprocessing.get_context("fork")
    for row in json.loads(Path(sys.argv[1]).read_text()):
        process = fork.Process(target=train, args=row)
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(f"{row}: {process.exitcode}")


main()
