"""What every other folder needs: user errors, atomic file writes, storage at a URI, logs, stopping at a signal.

Imports nothing else of rdistill but `_compat` and `schemas`, and neither torch nor Ray. Begin with
:mod:`rdistill.core.errors`, then :mod:`rdistill.core.files`.
"""
