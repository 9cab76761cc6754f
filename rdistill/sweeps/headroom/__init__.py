"""Headroom: a few short trainings before a sweep that estimate how much a student can gain from its teacher.

This folder imports :mod:`rdistill.sweeps.cohort` and folders before it. Begin with
:mod:`rdistill.sweeps.headroom.arms` (the trainings), then :mod:`rdistill.sweeps.headroom.measure` (how they run), and
:mod:`rdistill.sweeps.headroom.answer` (the conclusions from their scores).
"""
