"""`quantctl inspect`: what a format does to one saved tensor."""

from __future__ import annotations

import math
import os
import zipfile
from pathlib import Path
from typing import Any

import click

from quantctl import output
from quantctl.errors import QuantctlError
from quantctl.output import printable, shortened
from quantctl.outside.packages import require
from quantctl.outside.records import BadRecord, open_regular

_BAR = 40
"""Characters of the longest bar of the histogram."""


_MOST_AXES = 32
_HINT = "name a file that torch.save wrote, of a tensor or a dict of tensors"
_OVERLAP = 2, 64 * 2**20
"""Times the file's bytes, and bytes, that its tensors may have together: tied weights stand in it once."""


def _require_file(path: Path) -> int:
    """The file's bytes. Raises QuantctlError for what is no regular file, and for one that unpacks into more."""
    try:
        with open_regular(path, 2**63) as file:
            size = os.fstat(file.fileno()).st_size
            entries = zipfile.ZipFile(file).infolist() if zipfile.is_zipfile(file) else []
    except BadRecord as error:
        raise QuantctlError(error.message, _HINT) from None
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise QuantctlError(f"{path} cannot be read: {shortened(str(error))}", _HINT) from None
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or sum(e.file_size for e in entries) > size:
        raise QuantctlError(f"{path} cannot be read: torch.save compresses nothing, and this is compressed", _HINT)
    return size


def _load(path: Path) -> Any:
    """What torch.save wrote, if it is nothing but tensors and plain Python."""
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what its unpickler raises
        reason = shortened(str(error).splitlines()[0] if str(error) else type(error).__name__)
        raise QuantctlError(f"{path} cannot be read: {reason}", _HINT) from error


def _name(key: Any) -> str:
    """A key for people; of what is neither text nor a number its type."""
    plain = isinstance(key, (str, float)) or (isinstance(key, int) and abs(key) < 2**63)
    return shortened(str(key)) if plain else type(key).__name__


def _collect(content: Any) -> dict[str, Any]:
    """Name -> tensor of everything below `content`; each dict counts once, so that one may hold itself."""
    import torch

    found: dict[str, Any] = {}
    seen: set[int] = set()
    left = [("", content)]
    while left:
        name, value = left.pop()
        if isinstance(value, torch.Tensor):
            dense = value.layout is torch.strided and not value.is_meta and not value.is_nested
            if dense and value.is_floating_point():
                found[name] = value.detach()
        elif isinstance(value, dict) and id(value) not in seen:
            seen.add(id(value))
            inside = [(f"{name}.{_name(key)}" if name else _name(key), inner) for key, inner in value.items()]
            left += reversed(inside)
    return found


def _read(path: Path) -> dict[str, Any]:
    """Name -> tensor of everything in the file; the name is empty where the file is one tensor."""
    size = _require_file(path)
    found = _collect(_load(path))
    if not found:
        raise QuantctlError(f"{path} holds no dense floating-point tensor", "save a tensor, or a dict of tensors")
    times, more = _OVERLAP
    needed = sum(tensor.numel() * tensor.element_size() for tensor in found.values())
    if needed > times * size + more:
        raise QuantctlError(
            f"{path} has {size:,} bytes, and its tensors would have {needed:,}: they share or repeat their elements",
            "save what is to be measured as a tensor of its own: torch.save(tensor.contiguous(), ...)",
        )
    return found


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
    require("inspect", {"kernels": ("torch", "numpy")})
    import torch

    from quantctl.kernels.formats.quantize import DTYPES
    from quantctl.kernels.measure.statistics import for_json, measure

    results: list[dict[str, Any]] = []
    for name, tensor in _chosen(_read(path), key, path).items():
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
