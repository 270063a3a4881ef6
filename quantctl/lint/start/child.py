"""In a process of its own: command lines through a tree's own parser, checks, parallel state and configuration.

    python child.py TREE        standard input: JSON, [{"world": ranks, "flags": [...], "environment": {...}}, ...]

Standard output, last line: JSON, a sentence for each command that the tree refuses, an empty one for each that it
takes. Nothing is trained and no CUDA device is seen: where the checks ask for one, they are told of Hopper's. Ranks are
those of PyTorch's fake process group.
"""

import ast
import contextlib
import io
import json
import os
import sys
import traceback
import types

TREE = sys.path[0] = sys.argv[1]
os.environ |= {"CUDA_VISIBLE_DEVICES": "", "NO_VCS_VERSION": "1", "RANK": "0", "LOCAL_RANK": "0"}

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

try:
    import typing

    from typing_extensions import override

    setattr(typing, "override", getattr(typing, "override", override))  # noqa: B010
except ImportError:
    pass
_HOPPER: dict[str, object] = {
    "get_device_properties": lambda *_: types.SimpleNamespace(major=9, minor=0),
    "get_device_capability": lambda *_: (9, 0),
    "current_device": lambda: 0,
}
for _name, _value in _HOPPER.items():
    setattr(torch.cuda, _name, _value)


def _parallel(args):
    """The parallel state, by the call that stands in training/initialize.py."""
    from megatron.core import parallel_state
    from torch.testing._internal.distributed.fake_pg import FakeStore

    with open(os.path.join(TREE, "megatron/training/initialize.py"), encoding="utf-8") as file:
        calls = [node for node in ast.walk(ast.parse(file.read())) if isinstance(node, ast.Call)]
    call = next(node for node in calls if getattr(node.func, "attr", "") == "initialize_model_parallel")
    call.keywords = [word for word in call.keywords if word.arg != "create_gloo_process_groups"]
    call.keywords.append(ast.keyword("create_gloo_process_groups", ast.Constant(False)))
    dist.init_process_group("fake", rank=0, world_size=args.world_size, store=FakeStore())
    try:
        names = {"mpu": parallel_state, "args": args, "get_embedding_ranks": None, "get_position_embedding_ranks": None}
        eval(compile(ast.fix_missing_locations(ast.Expression(call)), "initialize.py", "eval"), names)
    finally:
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


def _microbatches(args):
    from megatron.core import num_microbatches_calculator as calculator

    sizes = (args.rampup_batch_size, args.global_batch_size, args.micro_batch_size, args.data_parallel_size)
    calculator.init_num_microbatches_calculator(0, *sizes)
    calculator.destroy_num_microbatches_calculator()


def problem(command):
    """The tree's sentence, or nothing."""
    from megatron.training import arguments
    from megatron.training.arguments import parse_args, validate_args

    try:
        from megatron.training.argument_utils import core_transformer_config_from_args
    except ImportError:
        core_transformer_config_from_args = arguments.core_transformer_config_from_args
    before = dict(os.environ)
    os.environ |= command["environment"] | {"WORLD_SIZE": str(command["world"])}
    sys.argv = ["pretrain_gpt.py", *command["flags"]]
    heard = io.StringIO()
    try:
        with contextlib.redirect_stderr(heard), contextlib.redirect_stdout(heard):
            args = parse_args()
            validate_args(args, {"tokenizer_type": "GPT2BPETokenizer"})
            _parallel(args)
            _microbatches(args)
            core_transformer_config_from_args(args)
    except SystemExit:
        return heard.getvalue().strip().rpartition("\n")[2][-500:] or "it exits"
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {error}".strip()
        return f"{said} ({os.path.basename(last.filename)}:{last.lineno})"
    finally:
        os.environ.clear()
        os.environ.update(before)
    return ""


if __name__ == "__main__":
    print(json.dumps([problem(command) for command in json.load(sys.stdin)]))
