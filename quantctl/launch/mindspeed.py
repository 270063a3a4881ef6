"""`python -m quantctl.launch.mindspeed PROGRAM ARGS`: a stock Megatron-LM trainer on Ascend NPUs.

MindSpeed replaces Megatron's CUDA functions when its adaptor is imported, which must happen after torch and before
Megatron. Stock trainers do not do that.
"""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path

from quantctl.errors import QuantctlError, exit_with

ADAPTOR = ("torch", "torch_npu", "mindspeed.megatron_adaptor")
"""What is imported, in this order."""


def main() -> None:
    """Import the adaptor, then run the program as if it had been started itself."""
    if len(sys.argv) < 2:
        raise QuantctlError("no program was given", "python -m quantctl.launch.mindspeed pretrain_gpt.py FLAGS")
    for module in ADAPTOR:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise QuantctlError(
                f"{module} does not import: {error}", "install torch_npu and MindSpeed, and source CANN's set_env.sh"
            ) from error
    del sys.argv[0]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    exit_with(main)
