"""What a sweep found out: the confirmation, its statistics, the verdict, the summary, the winner and its images.

Imports :mod:`rdistill.sweeps.study`, :mod:`rdistill.sweeps.trial` and :mod:`rdistill.sweeps.monitor`. Begin with
:mod:`rdistill.sweeps.findings.statistics`, whose ``verdict`` is the sentence that a sweep ends with.
"""
