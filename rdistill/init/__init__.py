"""`rdistill init`: from a folder of images and masks to the files of a study, and mmseg's models by name.

Imports :mod:`rdistill.sweeps.trial` (which measures a step) and folders before it. Begin with
:mod:`rdistill.init.run`; how a folder is read is in :mod:`rdistill.init.layouts`.
"""
