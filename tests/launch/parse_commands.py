"""In a process of its own: command lines through a tree's own megatron/training/arguments.py.

Standard input: JSON, a list of {"world": ranks, "flags": [...]}. Standard output, last line: JSON, a list of what
went wrong with each ("" for nothing). No CUDA device is there: where validate_args asks for one's architecture (tensor
parallelism), it is told Hopper's.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import types
import typing

import torch
import typing_extensions

if not hasattr(typing, "override"):
    typing.override = typing_extensions.override  # type: ignore[attr-defined]
torch.cuda.get_device_properties = lambda *_: types.SimpleNamespace(major=9, minor=0)  # type: ignore[assignment]
os.environ |= {"CUDA_DEVICE_MAX_CONNECTIONS": "1", "RANK": "0"}


def problem(command: dict) -> str:
    from megatron.training.arguments import parse_args, validate_args

    os.environ["WORLD_SIZE"] = str(command["world"])
    sys.argv = ["pretrain_gpt.py", *command["flags"]]
    heard = io.StringIO()
    try:
        with contextlib.redirect_stderr(heard), contextlib.redirect_stdout(heard):
            validate_args(parse_args())
    except SystemExit:
        return heard.getvalue()[-500:]
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


if __name__ == "__main__":
    print(json.dumps([problem(command) for command in json.load(sys.stdin)]))
