"""The report: one HTML page about a sweep, made from its files alone.

This folder imports :mod:`rdistill.core` and those modules of :mod:`rdistill.sweeps` that read files, but no module that
trains, so it needs neither torch nor ray nor mmengine. Begin with :mod:`rdistill.report.build` (the sections of a
page), then :mod:`rdistill.report.load` (the files).
"""
