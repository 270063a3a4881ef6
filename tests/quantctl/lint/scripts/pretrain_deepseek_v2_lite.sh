#!/bin/bash
# another network than the one in the name, on sizes that do not divide
set -euo pipefail
HIDDEN=${HIDDEN:-5120}
srun bash -c "torchrun --nproc-per-node 8 --nnodes 1 pretrain_gpt.py --multi-latent-attention --kv-lora-rank 512 \
    --num-layers 27 --hidden-size $HIDDEN --num-attention-heads 16 --seq-length 8192 --max-position-embeddings 4096 \
    --qk-head-dim 128 --qk-pos-emb-head-dim 64 --v-head-dim 128 --untie-embeddings-and-output-weights \
    --tensor-model-parallel-size 3 --micro-batch-size 1 --global-batch-size 36 --train-iters 10 --eval-interval 100"
