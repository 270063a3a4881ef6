"""The folder that `quantctl exec` puts on its child's PYTHONPATH; it holds sitecustomize.py and nothing else."""
