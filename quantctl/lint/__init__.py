"""Judging a training command before it costs a night: rules over what a command line and its script say.

May import the ground, tree, and the tables of script/ and of the embedded trainer; executes nothing of what it reads.
"""
