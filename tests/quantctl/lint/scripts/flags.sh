#!/bin/bash
# flags that 0.19.0 refuses: a typing error, one that is gone, a value outside the choices, a switch with a value
set -euo pipefail
MODEL_ARGS=(
    --num-layers 4 --hidden-sizes 256 --num-attention-heads 4 --seq-length 512 --max-position-embeddings 512
    --transformer-impl local --no-persist-layer-norm --use-mcore-models true
)
TRAINING_ARGS=(--micro-batch-size 1 --lr 1e-4 --train-iters ten --eval-interval 100 --fp8-format mxfp8)
# an element with a blank in it falls apart where the array is not quoted
SCHEDULE=(--step-batch-size-schedule "0:16 1B:32")
torchrun --nproc-per-node 8 pretrain_gpt.py "${MODEL_ARGS[@]}" "${TRAINING_ARGS[@]}" \
    ${SCHEDULE[@]} \
    --moe-extended-tp --attention-backend unfused
