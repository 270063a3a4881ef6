"""Models, datasets, platforms and training configs as tables, the template, and the 60 scripts made from them.

May import the ground only, but for the three front ends, which call quantctl as their users would.
"""
