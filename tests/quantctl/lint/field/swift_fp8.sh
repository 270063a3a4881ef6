#!/bin/bash
set -euo pipefail
NPROC_PER_NODE=2 megatron sft --model some/model --fp8_recipe blockwise --fp8_format e4m3 --fp8_param_gather true --tensor_model_parallel_size 2 --micro_batch_size 1 --global_batch_size 2
