"""What follows the training of a student: predictions on images, and export as ONNX.

Imports :mod:`rdistill.training` and folders before it. Only :mod:`rdistill.handover.qat` trains: it fine-tunes a
student that loses too much in INT8. Begin with :mod:`rdistill.handover.inference`, which loads a model and reads images
like its config does.
"""
