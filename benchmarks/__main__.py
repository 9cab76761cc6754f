"""``make bench``: every benchmark in turn, at its default size."""

from benchmarks.cohort import main

main()
