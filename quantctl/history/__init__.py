"""Changing a tree and taking it back: git plumbing, the recorded operations, the journal, the transaction.

The only place that writes into somebody's tree. May import the ground and tree; runs and the commands import it.
"""
