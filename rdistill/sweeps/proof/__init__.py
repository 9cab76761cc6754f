"""The statistics of a proof: looks at paired seeds, the error over seeds and images, each image's counts.

Imports :mod:`rdistill.sweeps.study` and :mod:`rdistill.core` alone; needs neither torch nor ray. Begin with
:mod:`rdistill.sweeps.proof.decision`.
"""
