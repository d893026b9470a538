"""``python -m neuralef``."""

from neuralef.cli import main

main()
