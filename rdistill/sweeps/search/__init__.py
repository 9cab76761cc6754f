"""Which trials there are and how Ray Tune runs them: searchers, schedulers, the phases of a sweep.

Imports :mod:`rdistill.sweeps.cohort`, :mod:`rdistill.sweeps.monitor` and folders before them. Begin with
:mod:`rdistill.sweeps.search.searchers`, then :mod:`rdistill.sweeps.search.tune`.
"""
