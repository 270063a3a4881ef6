#!/bin/bash
set -euo pipefail
TRAINING_ARGS=(
    --micro-batch-size 1
    --global-batch-size 8
    --log-interval 1
)
INFRA_ARGS=(
    --bf16
    --attention-backend auto
)
cmd="torchrun --nproc-per-node 8 pretrain_gpt.py --num-layers 2 --hidden-size 64 --num-attention-heads 4 --seq-length 64 --max-position-embeddings 64 --eval-interval 10 \
    ${TRAINING_ARGS[@]} \
    ${INFRA_ARGS[@]}"
echo $cmd
eval $cmd
