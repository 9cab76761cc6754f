"""What the data is that crosses a border as plain dicts: files in a work dir, messages, sections of a config.

Nothing but types: which keys there are, of which kind and unit, so that mypy sees a key that is not there. Imports
nothing. Begin with :mod:`rdistill.schemas.run` (what one run leaves), then :mod:`rdistill.schemas.summary` (a sweep's
answer); :mod:`rdistill.schemas.mappings` names the mappings whose keys another package or the user chooses.
"""
