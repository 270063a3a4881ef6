#!/bin/bash
set -u
until torchrun --nproc-per-node 8 pretrain_gpt.py --num-layers 2 --no-such-flag; do sleep 60; done
