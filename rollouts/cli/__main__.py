"""``python -m rollouts.cli``: the same as ``rollouts``."""

from rollouts.cli.main import main

main()
