"""`python -m jitterprof`."""

from jitterprof.cli.app import main

main()
