"""One trial of a sweep: its training and its record, the causes of its failures, the cost of its steps.

This folder imports :mod:`rdistill.sweeps.study`, :mod:`rdistill.training` and folders before them. Begin with
:mod:`rdistill.sweeps.trial.trial`.
"""
