"""`quantctl inspect`: what a format does to one saved tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from quantctl import output
from quantctl.commands._options import Spec
from quantctl.errors import QuantctlError
from quantctl.output import printable
from quantctl.outside.packages import require
from quantctl.outside.tensors import needed, read

_BAR = 40
"""Characters of the longest bar of the histogram."""


_MOST_AXES = 32


def _chosen(tensors: dict[str, Any], key: str | None, path: Path) -> dict[str, Any]:
    if key is None:
        return tensors
    found = {name: tensor for name, tensor in tensors.items() if key in name}
    if not found:
        shown = ", ".join(list(tensors)[:8]) + (", ..." if len(tensors) > 8 else "")
        raise QuantctlError(f"{path} has no tensor whose name holds {printable(key)!r}", f"there are: {shown}")
    return found


def _histogram(scales: dict[str, int]) -> str:
    longest = max(scales.values())
    rows = [
        (f"2^{exponent}", f"{count:,}", "#" * max(1, round(_BAR * count / longest)))
        for exponent, count in scales.items()
    ]
    return output.columns(rows, indent="    ")


def _cell(result: dict[str, Any]) -> str:
    sqnr = "no error" if result["sqnr"] == math.inf else f"{result['sqnr']:.2f} dB"
    return ", ".join([sqnr, *(f"{100 * result[word]:.3g} %" for word in ("underflow", "saturated"))])


def _table(results: Sequence[dict[str, Any]], specs: int) -> str:
    """A row a tensor, a column a spec; each tensor's results stand behind each other."""
    rows = [["tensor", "", "amax", *(result["spec"] for result in results[:specs])]]
    for start in range(0, len(results), specs):
        mine = results[start : start + specs]
        shape = "x".join(map(str, mine[0]["shape"])) or "one number"
        named = [mine[0]["tensor"], f"{shape} {mine[0]['dtype']}", f"{mine[0]['amax']:.6g}"]
        rows.append([*named, *map(_cell, mine)])
    return output.columns(rows)


def _operands(spec: str) -> dict[str, list[str]]:
    """The formats of a spec, and of one with scopes the linear layers' operands that they are of.

    Raises QuantctlError for rules, which are no matter of a tensor, and for a spec that quantizes nothing.
    """
    from quantctl.spec import NONE, SEPARATOR, canonical, parse

    found: dict[str, list[str]] = {}
    if "." in spec and SEPARATOR not in spec:
        from quantctl.spec.formats import text_of
        from quantctl.spec.operands import products

        for slot, operand in products(spec).items():
            found.setdefault(text_of(operand.spec, "linear"), []).append(" ".join(slot))
    else:
        parse(spec)
        found[canonical(spec)] = []
    found.pop(NONE, None)
    if not found:
        raise QuantctlError(f"--spec {spec}: nothing is quantized", "name a format, such as mxfp8")
    return found


@click.command(short_help="what a format does to one saved tensor")
@click.argument("path", type=click.Path(path_type=Path), metavar="FILE")
@click.option(
    "--spec",
    "specs",
    multiple=True,
    required=True,
    type=Spec(),
    metavar="SPEC",
    help="A format, or one with scopes; may be repeated.",
)
@click.option("--axis", type=int, default=-1, show_default=True, help="The axis along which blocks lie.")
@click.option("--key", help="Only the tensors whose name holds this, where the file has several.")
@click.pass_context
def command(ctx: click.Context, path: Path, specs: tuple[str, ...], axis: int, key: str | None) -> None:
    """Range, SQNR, underflow to zero, saturation and block scales of the tensors in a file.

    \b
    quantctl inspect activations.pt --spec mxfp8 --spec mxfp4:scale=floor
    quantctl inspect model.safetensors --spec mxfp8 --key layers.0.

    FILE is what torch.save wrote (a tensor, or a dict of them), a .safetensors or a .npy file.
    """
    operands = {spec: _operands(spec) for spec in specs}
    formats = list(dict.fromkeys(format_ for found in operands.values() for format_ in found))
    require("inspect", needed(path))
    chosen = _chosen(read(path), key, path)  # what is no such file is said before anything slow is loaded
    import torch

    from quantctl.kernels.formats.quantize import DTYPES
    from quantctl.kernels.measure.statistics import for_json, measure

    results: list[dict[str, Any]] = []
    for name, tensor in chosen.items():
        values = tensor if tensor.dim() else tensor.reshape(1)
        if values.dim() > _MOST_AXES:
            raise QuantctlError(f"{name or path} has {values.dim()} axes, more than are measured", "reshape it")
        if not -values.dim() <= axis < values.dim():
            raise QuantctlError(f"{name or path} has {values.dim()} axes, so no axis {axis}", "give --axis")
        try:
            values = values if values.dtype in DTYPES else values.to(torch.float32)
        except (RuntimeError, NotImplementedError) as error:
            raise QuantctlError(
                f"{name or path} is {tensor.dtype}, which torch does not convert", "save it as float32"
            ) from error
        facts: dict[str, Any] = {
            "tensor": name or printable(path.name),
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype)[6:],
            "axis": axis,
        }
        results += [{**facts, "spec": spec, **measure(values, spec, axis).read()} for spec in formats]
    if ctx.obj["json"]:
        output.data([for_json(result) for result in results])
        return
    click.echo(_table(results, len(formats)))
    click.echo(f"\nalong axis {axis}; SQNR, share of nonzero elements that become 0, share saturated")
    for spec, found in operands.items():
        if any(slots for slots in found.values()):
            click.echo(f"\n{spec} is")
            click.echo(output.columns([[format_, ", ".join(slots)] for format_, slots in found.items()], indent="    "))
    if len(results) == len(formats):
        for result in results:
            if scales := result.get("scales"):
                click.echo(f"\nblock scales of {result['spec']}\n{_histogram(scales)}")
    else:
        click.echo("block scales: --key with the name of one tensor, or --json")
