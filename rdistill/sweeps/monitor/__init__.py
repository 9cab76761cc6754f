"""What a user sees of a sweep while it runs: events, the live table, trackers, the leaderboard.

Imports :mod:`rdistill.sweeps.study` and :mod:`rdistill.sweeps.trial`. Begin with
:mod:`rdistill.sweeps.monitor.events`.
"""
