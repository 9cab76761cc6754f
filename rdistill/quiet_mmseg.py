"""Imports mmseg without its chatter, so that what rdistill prints is what it means to say.

Import this module before anything of mmseg: OneDL's mmseg prints lines to standard output on import.
"""

import contextlib
import io
import warnings

with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mmseg.datasets
    import mmseg.evaluation
    import mmseg.models  # noqa: F401
