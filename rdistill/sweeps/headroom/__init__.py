"""Is there anything to gain? A few short trainings in one cohort that answer before hours are spent on a sweep.

Imports :mod:`rdistill.sweeps.cohort` and folders before it. Begin with :mod:`rdistill.sweeps.headroom.arms` (what is
trained), then :mod:`rdistill.sweeps.headroom.measure` (how), and :mod:`rdistill.sweeps.headroom.answer` (what follows
from the scores).
"""
