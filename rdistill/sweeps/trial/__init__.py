"""One trial of a sweep: what runs in its process, why it may fail, what its step costs.

Imports :mod:`rdistill.sweeps.study` and :mod:`rdistill.training`. Begin with :mod:`rdistill.sweeps.trial.trial`.
"""
