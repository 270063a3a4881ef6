"""Inserting code into stock files: pure functions of bytes, anchored on class, function and statement.

`pattern` compares statements by structure, `code` builds what is inserted, `changes` make each kind of change that
quantctl.patches.patch names, `insert` applies a patch's edits to a file and checks the result.
"""
