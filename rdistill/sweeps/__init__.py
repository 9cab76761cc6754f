"""Sweeps: the many trainings of one study on Ray Tune, with the search, the cohorts, the confirmation and the verdict.

This folder imports its own folders, :mod:`rdistill.training` and folders before it. Begin with
:mod:`rdistill.sweeps.run`; docs/architecture.md shows how one step crosses driver, proxy trial, cohort and student.
"""
