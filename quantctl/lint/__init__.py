"""Judging a training command before it costs a night: rules over what a command line and its script say."""
