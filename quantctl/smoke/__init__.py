"""A reduced model of a registered architecture, built from a tree and stepped once: what `quantctl smoke` runs.

A program of its own in the staged tree. May import the ground, pretrain, data and the tables of script/.
"""
