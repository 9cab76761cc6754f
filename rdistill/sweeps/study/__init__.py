"""A study as data: the sweep file, its search space, the record of each trial, and the tables of all records.

This folder imports neither torch nor Ray by itself (:mod:`rdistill.sweeps.study.space` needs Optuna). Begin with
:mod:`rdistill.sweeps.study.spec` (the YAML file), then :mod:`rdistill.sweeps.study.records` (the files on disk).
"""
