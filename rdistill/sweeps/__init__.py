"""Many students of one study on Ray Tune: the search, the cohorts, the confirmation and the verdict.

Imports every folder but :mod:`rdistill.report`. Begin with :mod:`rdistill.sweeps.run`; docs/architecture.md draws how
one step crosses driver, proxy trial, cohort and student.
"""
