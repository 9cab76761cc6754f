"""Cohorts: several trials as students of one worker (or one worker group), under one teacher.

Imports :mod:`rdistill.sweeps.trial` and folders before it; its modules, but :mod:`.rank`, load neither torch nor
mmengine by themselves, since every trial's proxy process imports them. Begin with
:mod:`rdistill.sweeps.cohort.worker`, then :mod:`rdistill.sweeps.cohort.proxy` (what Tune sees of a student in a
cohort).
"""
