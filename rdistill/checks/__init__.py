"""The checks before training: data, layers and feature pairs, one training step on two images, disk space.

Imports :mod:`rdistill.distill` and folders before it. Begin with :mod:`rdistill.checks.run`, which puts all
problems of a config into one report.
"""
