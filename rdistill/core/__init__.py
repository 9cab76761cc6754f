"""What every other folder needs: errors a user can mend, files written whole, storage, logs, the wish to stop.

Imports nothing else of rdistill but `_compat` and `schemas`, and neither torch nor Ray. Begin with
:mod:`rdistill.core.errors`, then :mod:`rdistill.core.files`.
"""
