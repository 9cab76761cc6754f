"""What the benchmarks that simulate studies share: the option for how many, the command, and a table line by line."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import scipy

# The cells of each line, from the number of studies that are simulated for it and the source of chance.
Lines = Callable[[int, np.random.Generator], Iterator[Sequence[str]]]


def print_simulations(description: str | None, seed: int, columns: Sequence[str], lines: Lines) -> None:
    """Reads ``--studies`` from the command line, simulates, and prints the command and a table in Markdown.

    Args:
        description: what ``--help`` says.
        seed: the seed of all chance.
        columns: the names of the columns.
        lines: simulates and yields the lines.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000, help="simulated studies for each line")
    studies = parser.parse_args().studies
    command = f"python -m benchmarks.{Path(sys.argv[0]).stem} --studies {studies}"
    print(f"`{command}`, Python {platform.python_version()}, numpy {np.__version__}, scipy {scipy.__version__}\n")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for cells in lines(studies, np.random.default_rng(seed)):
        print(f"| {' | '.join(cells)} |", flush=True)
