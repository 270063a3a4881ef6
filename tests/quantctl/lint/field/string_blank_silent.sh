#!/bin/bash
set -euo pipefail
export CUDA_DEVICE_MAX_CONNECTIONS=1
SAVE="--save /ckpt"
SP="--sequence-parallel"
run_cmd="torchrun --nproc-per-node 8 pretrain_gpt.py --transformer-impl local --attention-backend unfused --no-persist-layer-norm --normalization RMSNorm --tensor-model-parallel-size 2 --num-layers 2 --hidden-size 64 --num-attention-heads 4 --seq-length 64 --max-position-embeddings 64 --micro-batch-size 1 --global-batch-size 8 --eval-interval 10 --bf16 --no-gradient-accumulation-fusion --no-masked-softmax-fusion --position-embedding-type rope --no-rope-fusion $SAVE $SP"
eval $run_cmd
