"""Undocumented parts of other packages that rdistill uses, and the texts of their errors that it reads.

There is one function for each of them, which says what it works around and what happens if the part is removed.
`setup.py` has an upper version for each package, and tests/unit/compat has a test that fails if the package changes. No
other folder uses a private name of another package; tests/unit/test_architecture.py checks that. Imports nothing of
rdistill, and each library only where it is used. Begin with :mod:`rdistill._compat.changed`, then
:mod:`rdistill._compat.ray`.
"""
