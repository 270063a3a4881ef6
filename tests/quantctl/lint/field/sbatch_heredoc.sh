#!/bin/bash
sbatch <<EOF
#!/bin/bash
#SBATCH -N 2
srun torchrun --nproc-per-node 8 pretrain_gpt.py --num-layers 2 --no-such-flag
EOF
