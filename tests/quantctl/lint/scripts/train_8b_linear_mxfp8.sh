#!/bin/bash
# the name promises mxfp8: another format is selected, and inference's layers never look at it
set -euo pipefail
MODE=${MODE:-linear_mxfp4}
quantctl exec --mode "$MODE" -- torchrun --nproc-per-node 8 pretrain_gpt.py \
    --num-layers 4 --hidden-size 250 --num-attention-heads 4 --seq-length 512 --max-position-embeddings 512 \
    --micro-batch-size 1 --train-iters 10 --eval-interval 100 --bf16 --attention-backend flash --transformer-impl inference_optimized
