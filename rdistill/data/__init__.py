"""What a student sees: the stream of samples that depends on (seed, draw) alone, data sets, the image generator.

Imports :mod:`rdistill.config` and folders before it. Begin with :mod:`rdistill.data.datasets`; the shipped generator
is :mod:`rdistill.data.synthetic`, and how it draws a fundus :mod:`rdistill.data.fundus`.
"""
