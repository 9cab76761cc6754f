"""MMSegmentation's models: how they are built, loaded, inspected and made cheaper.

Imports :mod:`rdistill.core` and :mod:`rdistill.distributed` alone. Begin with :mod:`rdistill.models.features` (what a
feature name means and how its tensor is captured), then :mod:`rdistill.models.checkpoint` (safe loading).
"""
