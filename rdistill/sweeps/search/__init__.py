"""The searchers, the schedulers and the phases of a sweep, and how Ray Tune runs them.

This folder imports :mod:`rdistill.sweeps.cohort`, :mod:`rdistill.sweeps.monitor` and folders before them. Begin with
:mod:`rdistill.sweeps.search.searchers`, then :mod:`rdistill.sweeps.search.tune`.
"""
