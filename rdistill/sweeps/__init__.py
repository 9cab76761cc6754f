"""Many students of one study on Ray Tune: the search, the cohorts, the confirmation and the verdict.

Imports its own folders, :mod:`rdistill.training` and folders before it. Begin with :mod:`rdistill.sweeps.run`;
docs/architecture.md draws how one step crosses driver, proxy trial, cohort and student.
"""
