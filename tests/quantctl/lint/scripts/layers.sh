#!/bin/bash
# what the local layers of stock Megatron cannot build
set -euo pipefail
export CUDA_DEVICE_MAX_CONNECTIONS=1
TP=4
LOCAL="--transformer-impl local --attention-backend local --no-rope-fusion --no-masked-softmax-fusion"
torchrun --nproc-per-node 8 pretrain_gpt.py $LOCAL --num-layers 4 --hidden-size 256 --num-attention-heads 4 \
    --seq-length 512 --max-position-embeddings 512 --normalization RMSNorm --micro-batch-size 1 --train-iters 10 \
    --tensor-model-parallel-size $TP --sequence-parallel --context-parallel-size 2 --eval-interval 100 \
    --multi-latent-attention --group-query-attention --rotary-scaling-factor 40 --no-gradient-accumulation-fusion
