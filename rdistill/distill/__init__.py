"""The distillation itself: a student, its frozen teachers and the losses between them as one mmengine model.

Imports :mod:`rdistill.data`, :mod:`rdistill.losses`, :mod:`rdistill.models` and folders before them. Begin with
:mod:`rdistill.distill.distiller`: ``Distiller.loss`` is one training step.
"""
