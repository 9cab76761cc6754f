"""The statistics behind a verdict: repeated looks at paired seeds, standard errors over seeds and images, image counts.

This folder imports :mod:`rdistill.sweeps.study` and :mod:`rdistill.core` alone, and needs neither torch nor Ray.
Begin with :mod:`rdistill.sweeps.proof.decision`.
"""
