"""From a training script to processes: settings, data, folders, the machine, Slurm, the nodes of a run.

The commands and `quantctl.sweep` may import it; it may import `quantctl.script` and the ground, and no command.
Nothing here loads torch: what a script checks is checked before any of it starts.
"""
