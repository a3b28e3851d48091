"""`python -m daemon` is `lva`; with no arguments, `lva run`, as a unit calls it."""

import sys

from daemon.cli import main

if len(sys.argv) == 1:
    sys.argv.append("run")
main()
