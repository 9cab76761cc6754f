"""What happens to a trained student: predictions on images, and its export as ONNX.

Imports :mod:`rdistill.training` and folders before it; trains nothing but a student that loses too much in INT8
(:mod:`rdistill.handover.qat`). Begin with
:mod:`rdistill.handover.inference`, which loads a model and reads images as its config does.
"""
