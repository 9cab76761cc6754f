"""The report: one HTML page of a sweep, read from its files. Needs neither torch nor ray nor mmengine.

Imports :mod:`rdistill.core` and what :mod:`rdistill.sweeps` says of its files, never what trains. Begin with
:mod:`rdistill.report.build` (which sections a page has), then :mod:`rdistill.report.load` (what is read).
"""
