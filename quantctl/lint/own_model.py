"""Whether a tree builds GPTModel's local layers of other parts than Megatron's releases do: its sources say it.

A fork that puts a layer of its own into a model says so where the model is built: a part of a module that no release
has, or a program that imports what is neither Megatron's nor PyTorch's. Read from syntax trees, nothing is run. Each
part of BUILT is in a release, and the tests hold that no release has another one.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

DENSE = (
    "models/gpt/gpt_model.py",
    "transformer/transformer_layer.py",
    "transformer/attention.py",
    "transformer/mlp.py",
)
LATENT = ("transformer/multi_latent_attention.py",)
EXPERTS = ("transformer/moe/moe_layer.py", "transformer/moe/experts.py", "transformer/moe/shared_experts.py")
PREDICTION = ("transformer/multi_token_prediction.py",)
"""Files under megatron/core that build what is in a model of that kind."""

# fmt: off
BUILT = frozenset((
    "output_layer", "self_attention", "cross_attention", "mlp", "self_attn_bda", "cross_attn_bda", "mlp_bda",
    "input_layernorm", "pre_cross_attn_layernorm", "pre_mlp_layernorm", "self_attention_hyper_connection",
    "mlp_hyper_connection", "core_attention", "linear_qkv", "linear_q", "linear_kv", "linear_proj", "q_layernorm",
    "k_layernorm", "kv_layernorm", "linear_q_proj", "linear_q_down_proj", "linear_q_up_proj", "linear_kv_down_proj",
    "linear_kv_up_proj", "linear_qkv_down_proj", "linear_fc1", "linear_fc2", "activation_func", "router", "experts",
    "shared_experts", "fc1_latent_proj", "fc2_latent_proj", "_inference_token_dispatcher", "enorm", "hnorm", "eh_proj",
    "transformer_layer", "mtp_model_layer", "final_layernorm",
))
# fmt: on
_BESIDE = ("gpt_builders", "model_provider")
_KNOWN_IMPORTS = frozenset((*sys.stdlib_module_names, *_BESIDE, "megatron", "torch"))


def strange(root: Path, program: str | None, files: Iterable[str]) -> str | None:
    """What is not Megatron's own in the files of the tree at `root`, and in the program; None where all is."""
    for file in files:
        path = root / "megatron" / "core" / file
        if other := sorted(_built(path) - BUILT):
            return f"{path.name} of this tree builds {', '.join(other)}, which no release has"
    if program is None:
        return None
    given = Path(program)
    started = given if given.is_file() else root / given.name
    for path in (started, *(started.with_name(f"{name}.py") for name in _BESIDE)):
        if other := sorted(_imported(path) - _KNOWN_IMPORTS):
            return f"{path.name} imports {', '.join(other)}"
    return None


def _nodes(path: Path) -> Iterator[ast.AST]:
    """Nothing for a file that is not there, or no Python: whoever runs it will say so."""
    try:
        yield from ast.walk(ast.parse(path.read_bytes()))
    except (OSError, SyntaxError, ValueError, RecursionError):
        return


@lru_cache(maxsize=32)
def _built(path: Path) -> frozenset[str]:
    """Attributes of modules that are modules: built from a specification, or a linear layer at once."""
    found = set()
    for node in _nodes(path):
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Call):
            (target, *_) = node.targets if isinstance(node, ast.Assign) else [node.target]
            own = isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self"
            *front, last = ast.unparse(node.value.func).split(".")
            builds = last == "build_module" or last.endswith(("Linear", "_cls")) or "submodules" in front
            if own and builds and isinstance(target, ast.Attribute):
                found.add(target.attr)
    return frozenset(found)


@lru_cache(maxsize=32)
def _imported(path: Path) -> frozenset[str]:
    """Top-level packages."""
    names: set[str] = set()
    for node in _nodes(path):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "a package around it")
    return frozenset(name.partition(".")[0] for name in names)
