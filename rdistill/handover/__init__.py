"""What happens to a trained student: predictions on images, and its export as ONNX.

Imports :mod:`rdistill.training` (its progress line) and folders before it; trains nothing. Begin with
:mod:`rdistill.handover.inference`, which loads a model and reads images as its config does.
"""
