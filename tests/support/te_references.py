"""Transformer Engine's references in plain Python, out of its wheel, whose compiled half is not needed for them.

They are taken out of the wheel alone: the packages that they stand in are stubs while they are loaded, and no module of
that name is left behind, because Megatron imports Transformer Engine wherever it finds one.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import te_wheels

NAME = "transformer_engine"


def _package(name: str, folder: Path) -> ModuleType:
    stub = ModuleType(name)
    stub.__path__ = [str(folder.joinpath(*name.split(".")))]
    return stub


def load() -> dict[str, ModuleType]:
    """The modules of `custom_recipes` by their names."""
    folder = te_wheels.unpacked(te_wheels.NEWEST)
    tensors = ModuleType(f"{NAME}.pytorch.quantized_tensor")
    tensors.QuantizedTensorStorage = type("QuantizedTensorStorage", (), {})
    tensors.Quantizer = type("Quantizer", (), {"__init__": _keep_usages})
    utilities = ModuleType(f"{NAME}.pytorch.tensor.utils")
    utilities.is_custom = lambda *_: True
    packages = [_package(name, folder) for name in (NAME, f"{NAME}.pytorch", f"{NAME}.pytorch.custom_recipes")]
    stubs = [*packages, ModuleType(f"{NAME}.pytorch.tensor"), tensors, utilities]
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == NAME}
    for name in before:
        del sys.modules[name]
    try:
        sys.modules.update({stub.__name__: stub for stub in stubs})
        wanted = ("reference_nvfp4", "reference_current_scaling", "reference_utils")
        return {name: importlib.import_module(f"{NAME}.pytorch.custom_recipes.{name}") for name in wanted}
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == NAME]:
            del sys.modules[name]
        sys.modules.update(before)


def _keep_usages(self: object, *, rowwise: bool, columnwise: bool) -> None:
    self.rowwise_usage, self.columnwise_usage = rowwise, columnwise
