"""What a release decides from flags alone before it trains: its own checks, read from its sources and followed with
what is known of a command.

`source` turns validate_args, the configurations' __post_init__ and the parallel state's set-up into a table of
conditions; `steps`, `expressions` and `calls` follow such a table with three-valued logic: what is not known decides
nothing, and only a check that fails whatever is not known counts. Nothing of Megatron's is executed, but by `child`,
on request.
"""
