"""Which trials there are and how Ray Tune runs them: searchers, schedulers, the phases of a sweep.

Imports :mod:`rdistill.sweeps.cohort` and :mod:`rdistill.sweeps.monitor`. Begin with
:mod:`rdistill.sweeps.search.searchers`, then :mod:`rdistill.sweeps.search.tune`.
"""
