"""`python -m quantctl.smoke MODEL --iterations N`: the child process of `quantctl smoke`. Prints one JSON document.

The tree is the one that Python imports. The model is that of the smoke scripts, on tokens drawn at random.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from typing import Any

from quantctl.errors import QuantctlError, exit_with
from quantctl.smoke.flags import SEQUENCES, words


def arguments(model: str, length: int | None) -> argparse.Namespace:
    """The flags of the model's smoke script; length: steps of the training, where phases are to be shares of it."""
    from quantctl.data.tokenizer import build_tokenizer
    from quantctl.kernels.measure import steps
    from quantctl.pretrain.arguments import parse

    args = parse(words(model, length or 1))
    if length is not None:
        steps.train_for(length)
    build_tokenizer(args)
    return args


def _check_device(wanted: str | None) -> None:
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise QuantctlError("--device cuda: torch sees no CUDA device", "leave it out, or install torch for CUDA")


def _memory(device: Any) -> dict[str, float]:
    import torch

    from quantctl.pretrain.memory import peak_resident

    if device.type == "cuda":
        return {"cuda peak bytes": torch.cuda.max_memory_allocated()}
    return {"peak resident bytes": peak_resident()}


def _steps(model: Any, args: argparse.Namespace, device: Any, iterations: int) -> list[float]:
    """Losses of forward and backward passes over the same tokens, with an optimizer step behind each."""
    import torch

    from quantctl.kernels.measure import steps
    from quantctl.pretrain.optimizer import MasterAdamW

    optimizer = MasterAdamW(model, args)
    size = (SEQUENCES, args.seq_length + 1)
    tokens = torch.randint(0, args.padded_vocab_size, size, generator=torch.Generator().manual_seed(0)).to(device)
    positions = torch.arange(args.seq_length, device=device).expand(SEQUENCES, -1)
    mask = torch.ones(args.seq_length, args.seq_length, dtype=torch.bool, device=device).triu(1)[None, None]
    losses = []
    for step in range(iterations):
        steps.begin(step + 1)
        optimizer.zero_grad()
        loss = model(tokens[:, :-1].contiguous(), positions, mask, labels=tokens[:, 1:].contiguous()).float().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def _hits() -> dict[str, Any]:
    kernels = sys.modules.get("quantctl.kernels.measure.hits")  # a tree that quantizes nothing does not import it
    return kernels.snapshot() if kernels else {}


def _by_module() -> dict[str, Any]:
    kernels = sys.modules.get("quantctl.kernels.measure.hits")
    return kernels.by_module() if kernels else {}


def run(name: str, iterations: int, length: int | None) -> dict[str, Any]:
    """What was built, what it computed and what that took."""
    import megatron.core

    from quantctl.kernels.measure import coverage
    from quantctl.pretrain import parallel
    from quantctl.pretrain.model import build_model, parameter_count
    from quantctl.smoke.structure import describe

    args = arguments(name, length)
    device = parallel.start(args)
    left_out: list[str] = []
    model = build_model(args, device, left_out)
    coverage.begin()
    result = {
        "model": name,
        "megatron_core": megatron.core.__version__,
        "imported_from": megatron.core.__file__,
        "device": str(device),
        "left_out": left_out,
        "parameters": parameter_count(model, args),
        "structure": describe(model),
        "losses": _steps(model, args, device, iterations),
        "hits": _hits(),
        "modules": coverage.report(),
        "by_module": _by_module(),
        "memory": _memory(device),
    }
    parallel.stop()
    return result


_MODULES = {"pkg_resources": "setuptools<70"}
"""What provides a module, where the name does not say it."""


def _missing(error: ImportError) -> QuantctlError:
    name = (error.name or "").partition(".")[0]
    return QuantctlError(
        f"the tree needs {name or 'a module'}, which is not installed: {error}",
        f"pip install '{_MODULES.get(name, name)}'",
    )


def _said(error: Exception) -> str:
    """One line: the error, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    text = " ".join(traceback.format_exception_only(error)[-1].split())
    return f"{text} ({frames[-1].filename}:{frames[-1].lineno})"


def _failed(error: Exception) -> int:
    traceback.print_exception(error)
    print(_said(error), file=sys.stderr)
    return 1


def main() -> int:
    """0, or 1 when the tree's layers raise: their traceback is on stderr then, and a line about it last."""
    parser = argparse.ArgumentParser(prog="python -m quantctl.smoke", description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--iterations", type=int, default=1)
    parser.add_argument("--length", type=int)
    parser.add_argument("--device", choices=("cpu", "cuda"))
    options = parser.parse_args()
    _check_device(options.device)
    try:
        print(json.dumps(run(options.model, options.iterations, options.length)))
    except QuantctlError:
        raise
    except ImportError as error:
        if not (error.name or "megatron").startswith("megatron"):
            raise _missing(error) from error
        return _failed(error)
    except Exception as error:
        return _failed(error)
    return 0


if __name__ == "__main__":
    exit_with(main)
