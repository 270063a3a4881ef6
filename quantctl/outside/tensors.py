"""Tensors of files that others wrote: by torch.save, as .safetensors, as .npy. Nothing in a file is executed."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quantctl.errors import QuantctlError
from quantctl.output import shortened
from quantctl.outside.records import BadRecord, open_regular

_HINT = "name a file that torch.save wrote, of a tensor or a dict of tensors, a .safetensors or a .npy"
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


def _pickled(path: Path) -> Any:
    """What torch.save wrote, if it is nothing but tensors and plain Python."""
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)


def _array(path: Path) -> Any:
    """What numpy.save wrote: an array of numbers that torch knows, or None."""
    import numpy
    import torch

    # mapped, a header that promises more than the file holds is refused before anything is allocated
    mapped = numpy.load(path, mmap_mode="r", allow_pickle=False)
    if mapped.dtype.kind != "f" or mapped.dtype.itemsize > 8:
        return None
    return torch.from_numpy(mapped.astype(mapped.dtype.newbyteorder("=")))


def _safetensors(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict


_READERS: dict[str, Callable[[Path], Any]] = {".npy": _array, ".safetensors": _safetensors}
"""Ending -> what reads it; all others are torch.save's."""


def _load(path: Path) -> Any:
    try:
        return _READERS.get(path.suffix.lower(), _pickled)(path)
    except Exception as error:  # torch raises what its unpickler raises, the others their own
        told = next(iter(str(error).splitlines()), "")
        # what its unpickler stumbles over in other bytes: a code, or nothing
        reason = shortened(told) if any(map(str.isalpha, told)) else "it is not torch.save's"
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


def needed(path: Path) -> dict[str, tuple[str, ...]]:
    """Extra -> the modules that read the file, by its name."""
    own = {"safetensors": ("safetensors",)} if path.suffix.lower() == ".safetensors" else {}
    return {"kernels": ("torch", "numpy"), **own}


def read(path: Path) -> dict[str, Any]:
    """Name -> dense floating-point tensor of everything in the file; the name is empty where the file is one tensor.

    Raises QuantctlError for what is no such file, or has none. Needs what `needed` names.
    """
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
