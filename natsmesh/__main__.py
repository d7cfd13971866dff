"""``python -m natsmesh``: how the command starts its own workers, whatever the PATH says."""

from natsmesh.cli import main

main()
