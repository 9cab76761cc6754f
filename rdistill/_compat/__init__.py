"""What rdistill uses of other packages that they do not document, and what it reads from the text of their errors.

A function for each such thing says what it works around and what happens when it is gone; `setup.py` has a ceiling for
each package, and tests/unit/compat a test that fails when the package changes. No other folder touches a private name
of somebody else's: tests/unit/test_architecture.py holds that. Imports nothing of rdistill, and each library only where
it is used. Begin with :mod:`rdistill._compat.changed`, then :mod:`rdistill._compat.ray`.
"""
