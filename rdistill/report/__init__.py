"""The report: one HTML page of a sweep, read from its files. Needs neither torch nor ray nor mmengine."""
