"""``python -m rdistill``, for where the console script is not on the path."""

from rdistill.cli import main

main()
