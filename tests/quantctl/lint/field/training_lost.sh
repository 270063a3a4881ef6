#!/bin/bash
set -euo pipefail
if [ -d /scratch ]; then CACHE=/scratch; else CACHE=/tmp; fi
if [ -e /dev/nvidia7 ]; then GPUS=8; else GPUS=4; fi
if [ -f "$CACHE/latest_checkpointed_iteration.txt" ]; then LOAD="--load $CACHE"; else LOAD=""; fi
if [ "$(hostname)" = login1 ]; then MASTER=login1; else MASTER=localhost; fi
if [ "$(df --output=avail /tmp | tail -1)" -lt 1000 ]; then echo "disk full" >&2; exit 1; fi
if [ -e "$CACHE/stop" ]; then echo "stopped by hand" >&2; exit 1; fi
if [ "$(id -u)" = 0 ]; then echo "not as root" >&2; exit 1; fi
if [ "$(ulimit -n)" -lt 1024 ]; then echo "raise ulimit -n" >&2; exit 1; fi
if [ "${SLURM_JOB_PARTITION:-}" != gpu ] && [ "$(nproc)" -lt 4 ]; then echo "too few cores" >&2; exit 1; fi
if [ "$(date +%u)" -gt 6 ]; then echo "maintenance" >&2; exit 1; fi
torchrun --nproc-per-node $GPUS --master-addr $MASTER pretrain_gpt.py --num-layers 2 --no-such-flag $LOAD
