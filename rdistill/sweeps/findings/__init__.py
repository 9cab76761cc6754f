"""The results of a sweep: what the confirmation trains, its statistics, the verdict, the summary, the winner's images.

This folder imports :mod:`rdistill.sweeps.proof`, :mod:`rdistill.sweeps.monitor` and folders before them. Begin with
:mod:`rdistill.sweeps.findings.verdict`, whose ``verdict`` is the sentence that a sweep ends with, then
:mod:`rdistill.sweeps.findings.statistics` (the numbers in it).
"""
