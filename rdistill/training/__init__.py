"""One run, from a loaded config to ``metrics.json`` and ``student.pth``: mmengine's Runner, its hooks, resuming.

Imports :mod:`rdistill.checks`, :mod:`rdistill.distill` and folders before them. Begin with
:mod:`rdistill.training.run`; a run of several workers (the Ray Train group) is :mod:`rdistill.training.ray_train`, and
how the students of a cohort step together is :mod:`rdistill.training.lockstep`.
"""
