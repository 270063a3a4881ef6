"""`--rope-scaling-factor`, which Megatron-LM parses and forgets.

Where the factor gets lost moved twice, so there is a patch for each place. GPTModel's own default is 8, which is right
for Llama 3.1 and wrong for Llama 3.2 (32). Arguments from a YAML file may lack the name.
"""

from __future__ import annotations

from pathlib import PurePath

from quantctl.patches.patch import Edit, Kind, Patch

_FACTOR = "getattr(args, 'rope_scaling_factor', 8.0)"
_KEYWORD = f"rope_scaling_factor={_FACTOR}"
_ENTRY = f"""
kwargs["rope_scaling_factor"] = {_FACTOR}  # quantctl: --rope-scaling-factor
"""

_PLACES = (
    ("pretrain_gpt.py", "0.11 - 0.14", Edit(Kind.ARGUMENT, "model_provider", "GPTModel", _KEYWORD)),
    ("gpt_builders.py", "0.15 - 0.19, main", Edit(Kind.ARGUMENT, "gpt_builder", "GPTModel", _KEYWORD)),
    (
        "megatron/training/argument_utils.py",
        "0.19, main",
        Edit(Kind.AFTER, "gpt_config_from_args", 'kwargs["rope_scaling"] = args.use_rope_scaling', _ENTRY),
    ),
)

PATCHES = tuple(
    Patch(
        name=f"rope_scaling_factor:{PurePath(file).stem}",
        file=file,
        why="--rope-scaling-factor is parsed but never reaches the model, which keeps the factor 8",
        releases=releases,
        mark=_FACTOR.encode(),
        edits=(edit,),
        required=False,
        needed=rb"(?s)\A(?!.*rope_scaling_factor).*args\.use_rope_scaling",
        requires=("megatron/core/models/gpt/gpt_model.py", b"rope_scaling_factor"),
    )
    for file, releases, edit in _PLACES
)
