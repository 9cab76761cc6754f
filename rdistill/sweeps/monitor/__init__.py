"""The monitoring of a running sweep: events, the live table, trackers, the leaderboard.

This folder imports :mod:`rdistill.sweeps.trial` and folders before it. Begin with
:mod:`rdistill.sweeps.monitor.events`.
"""
