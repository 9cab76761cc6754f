"""Claims of speed, each a ratio of two things timed in turn within one run. Recorded in RESULTS.md."""
