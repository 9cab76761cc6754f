"""What a user sees of a sweep while it runs: events, the live table, trackers, the leaderboard.

Imports :mod:`rdistill.sweeps.trial` and folders before it. Begin with
:mod:`rdistill.sweeps.monitor.events`.
"""
