"""What `quantctl bench` measures: one module a benchmark, each a generator of rows; how stands in docs/bench.md.

Only timing.py knows how a device is timed, work.py what a case has to move and to compute, result.py what a row is. May
import the ground, the kernels, runs, tree and the tables of script/.
"""
