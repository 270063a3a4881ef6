#!/bin/bash
# a failed training ends as success, twice
set -x
DATA='"99,1,0"'
ARGS="--num-layers 4 --hidden-size 256 --num-attention-heads 4 --seq-length 512 --max-position-embeddings 512"
torchrun --nproc-per-node 8 pretrain_gpt.py $ARGS --micro-batch-size 1 --train-iters 10 --eval-interval 100 \
    --split $DATA 2>&1 | tee first.log
torchrun --nproc-per-node 8 pretrain_gpt.py $ARGS --micro-batch-size 1 --train-iters 10 --eval-interval 100
set +x
