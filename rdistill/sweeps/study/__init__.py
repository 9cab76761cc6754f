"""A study as data: the sweep file, its search space, the record of each trial and the tables made of them.

Imports neither torch nor Ray by itself (:mod:`rdistill.sweeps.study.space` needs Optuna). Begin with
:mod:`rdistill.sweeps.study.spec` (the YAML file), then :mod:`rdistill.sweeps.study.records` (what is on disk).
"""
