"""`python -m quantctl`: the command line."""

from quantctl.cli import main

main()
