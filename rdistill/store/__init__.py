"""The store of views from the outside: filled before training, looked at, verified, pruned.

Imports :mod:`rdistill.training` and the folders below it. Begin with :mod:`rdistill.store.build`; what the other
commands do is :mod:`rdistill.store.contents`. How a run uses a store is :mod:`rdistill.distill.teacher_store`.
"""
