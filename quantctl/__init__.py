"""Choose, prove and compare the number formats of Megatron's matrix products.

Importing this imports nothing else: training ranks do it. The names below come when they are asked for (docs/api.md).
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_KERNELS = ("torch", "numpy")
_API = {
    "QuantctlError": ("quantctl.errors", ()),
    "convert": ("quantctl.api.convert", _KERNELS),
    "linear": ("quantctl.api.tensors", _KERNELS),
    "load_runs": ("quantctl.api.runs", ()),
    "quantize": ("quantctl.api.tensors", _KERNELS),
}
"""Name -> the module that has it, and what that needs of the extra `kernels`."""

__all__ = ["__version__", *_API]  # noqa: PLE0604


def __getattr__(name: str) -> "Any":
    if name == "__version__":
        from importlib.metadata import version

        return version("quantctl")
    if name not in _API:
        raise AttributeError(f"module 'quantctl' has no attribute {name!r}")
    from importlib import import_module

    from quantctl.outside.packages import require

    module, needed = _API[name]
    require(f"quantctl.{name}", {"kernels": needed})
    globals()[name] = value = getattr(import_module(module), name)
    return value


def __dir__() -> "list[str]":
    return sorted({*globals(), *__all__})
