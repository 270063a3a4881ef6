"""A GPTModel of four layers on two pipeline stages: what each module is called, and what a selector says of it.

    python stages.py SELECTOR ...

The tree is the one on PYTHONPATH, patched with a selector `linear` that is not none. For each SELECTOR, one chunk a
stage and then two, each rank prints a line of JSON: {"rank", "chunks", "modules": {name: literal}} or {"error"}.
"""

import json
import multiprocessing
import sys
import tempfile

import local_layers
import torch.distributed as dist

LAYERS = 4


def build(chunks):
    from megatron.core import parallel_state
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.transformer import TransformerConfig

    parallel_state.destroy_model_parallel()
    virtual = chunks if chunks > 1 else None
    parallel_state.initialize_model_parallel(
        pipeline_model_parallel_size=2, virtual_pipeline_model_parallel_size=virtual
    )
    config = TransformerConfig(
        **local_layers.COMMON
        | {
            "num_layers": LAYERS,
            "pipeline_model_parallel_size": 2,
            "virtual_pipeline_model_parallel_size": virtual,
            "pipeline_dtype": local_layers.torch.float32,
        }
    )
    stage = parallel_state.get_pipeline_model_parallel_rank()
    for chunk in range(chunks):
        if virtual:
            parallel_state.set_virtual_pipeline_model_parallel_rank(chunk)
        yield GPTModel(
            config=config,
            transformer_layer_spec=get_gpt_layer_local_spec(normalization="RMSNorm"),
            vocab_size=96,
            max_sequence_length=32,
            pre_process=stage == 0 and chunk == 0,
            post_process=stage == 1 and chunk == chunks - 1,
            position_embedding_type="rope",
            share_embeddings_and_output_weights=False,
            **({"vp_stage": chunk} if virtual else {}),
        )


def rank_main(rank, store, selectors, lines):
    from megatron.core.tensor_parallel import layers

    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    for selector in selectors:
        layers.custom_quant_type_linear = selector
        for chunks in (1, 2):
            try:
                found = {
                    module.quant_layer.name: module.quant_layer.literals["linear"]
                    for model in build(chunks)
                    for module in model.modules()
                    if "linear" in getattr(getattr(module, "quant_layer", None), "literals", ())
                }
                lines.put({"rank": rank, "chunks": chunks, "modules": found})
            except Exception as error:
                lines.put({"rank": rank, "chunks": chunks, "error": f"{type(error).__name__}: {error}"})
    dist.destroy_process_group()


def main():
    import megatron.core.models.gpt  # noqa: F401, all that a rank would import

    import quantctl.kernels.modules  # noqa: F401

    fork = multiprocessing.get_context("fork")
    selectors, lines = sys.argv[1:], fork.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        ranks = [fork.Process(target=rank_main, args=(rank, f"{folder}/store", selectors, lines)) for rank in range(2)]
        for process in ranks:
            process.start()
        for _ in range(2 * 2 * len(selectors)):
            print(json.dumps(lines.get()), flush=True)
        for process in ranks:
            process.join()


main()
