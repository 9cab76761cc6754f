"""The commands for the store of views: it is filled before training, listed, verified and pruned.

Imports :mod:`rdistill.training` and the folders before it. Begin with :mod:`rdistill.store.build`; the other commands
are in :mod:`rdistill.store.contents`. How a run uses a store is in :mod:`rdistill.distill.teacher_store`.
"""
