"""Cohorts: several trials as students of one worker (or one worker group), under one teacher.

This folder imports :mod:`rdistill.sweeps.trial` and folders before it. Its modules, but :mod:`.rank`, load neither
torch nor mmengine by themselves, because the proxy process of every trial imports them. Begin with
:mod:`rdistill.sweeps.cohort.worker`, then :mod:`rdistill.sweeps.cohort.proxy` (Tune's side of a student in a cohort).
"""
