"""One trial of a sweep: what runs in its process, why it may fail, what its step costs.

Imports :mod:`rdistill.sweeps.study`, :mod:`rdistill.training` and folders before them. Begin with
:mod:`rdistill.sweeps.trial.trial`.
"""
