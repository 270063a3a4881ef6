"""`quantctl inspect`: what a format does to one saved tensor."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from quantctl import output
from quantctl.errors import QuantctlError

_BAR = 40
"""Characters of the longest bar of the histogram."""


def _read(path: Path) -> dict[str, Any]:
    """Name -> tensor of everything in the file; the name is empty where the file is one tensor."""
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise QuantctlError(f"{path} does not exist", "name a file that torch.save wrote") from error
    except Exception as error:  # torch raises what its unpickler raises
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise QuantctlError(
            f"{path} cannot be read: {reason}", "name a file that torch.save wrote, of a tensor or a dict of tensors"
        ) from error
    found: dict[str, Any] = {}

    def collect(name: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            if value.is_floating_point() and value.layout is torch.strided and not value.is_meta:
                found[name] = value
        elif isinstance(value, dict):
            for key, inner in value.items():
                collect(f"{name}.{key}" if name else str(key), inner)

    collect("", content)
    if not found:
        raise QuantctlError(f"{path} holds no dense floating-point tensor", "save a tensor, or a dict of tensors")
    return found


def _chosen(tensors: dict[str, Any], key: str | None, path: Path) -> dict[str, Any]:
    if key is None:
        return tensors
    found = {name: tensor for name, tensor in tensors.items() if key in name}
    if not found:
        shown = ", ".join(list(tensors)[:8]) + (", ..." if len(tensors) > 8 else "")
        raise QuantctlError(f"{path} has no tensor whose name holds {key!r}", f"there are: {shown}")
    return found


def _histogram(scales: dict[str, int]) -> str:
    longest = max(scales.values())
    rows = [
        (f"2^{exponent}", f"{count:,}", "#" * max(1, round(_BAR * count / longest)))
        for exponent, count in scales.items()
    ]
    return output.columns(rows, indent="    ")


@click.command(short_help="what a format does to one saved tensor")
@click.argument("path", type=click.Path(path_type=Path), metavar="TENSOR.pt")
@click.option("--spec", "specs", multiple=True, required=True, help="A format spec; may be repeated.")
@click.option("--axis", type=int, default=-1, show_default=True, help="The axis along which blocks lie.")
@click.option("--key", help="Only the tensors whose name holds this, where the file has several.")
@click.pass_context
def command(ctx: click.Context, path: Path, specs: tuple[str, ...], axis: int, key: str | None) -> None:
    """Range, underflow to zero, saturation, SQNR and block scales of a tensor that torch.save wrote.

    \b
    quantctl inspect activations.pt --spec mxfp8 --spec mxfp4:scale=floor
    """
    from quantctl.spec import canonical, parse

    for spec in specs:
        if parse(spec).is_none:
            raise QuantctlError(f"--spec {spec}: nothing is quantized", "name a format, such as mxfp8")
    try:
        import torch
    except ImportError as error:
        raise QuantctlError("measuring needs PyTorch", "pip install 'quantctl[kernels]'") from error

    from quantctl.kernels.quantize import DTYPES
    from quantctl.kernels.statistics import for_json, measure

    results: list[dict[str, Any]] = []
    for name, tensor in _chosen(_read(path), key, path).items():
        values = tensor if tensor.dim() else tensor.reshape(1)
        if not -values.dim() <= axis < values.dim():
            raise QuantctlError(f"{name or path} has {values.dim()} axes, so no axis {axis}", "give --axis")
        values = values if values.dtype in DTYPES else values.to(torch.float32)
        facts: dict[str, Any] = {
            "tensor": name or path.name,
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype)[6:],
            "axis": axis,
        }
        results += [{**facts, "spec": canonical(spec), **measure(values, spec, axis).read()} for spec in specs]
    if ctx.obj["json"]:
        output.data([for_json(result) for result in results])
        return
    for result in results:
        shape = "x".join(map(str, result["shape"])) or "one number"
        click.echo(f"{result['tensor']}  {shape} {result['dtype']}, {result['spec']} along axis {axis}")
        sqnr = "no error" if result["sqnr"] == math.inf else f"{result['sqnr']:.2f} dB"
        rows = [("amax", f"{result['amax']:.6g}"), ("SQNR", sqnr)]
        rows += [(word, f"{100 * result[word]:.4g} %") for word in ("underflow", "saturated")]
        click.echo(output.columns(rows, indent="  "))
        if scales := result.get("scales"):
            click.echo("  block scales")
            click.echo(_histogram(scales))
