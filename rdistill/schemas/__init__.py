"""The types of plain dicts: of files in a work dir, of messages between processes, and of sections of a config.

This folder has types alone, with the keys of each dict and their units, so that mypy finds wrong keys. It imports
nothing. Begin with :mod:`rdistill.schemas.run` (the files of one run), then :mod:`rdistill.schemas.summary` (the result
of a sweep); :mod:`rdistill.schemas.mappings` has the mappings whose keys another package or the user chooses.
"""
