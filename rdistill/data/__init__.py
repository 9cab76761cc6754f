"""The data stream, whose samples depend on (seed, draw) only; datasets; the image generator.

Imports :mod:`rdistill.config` and folders before it. Begin with :mod:`rdistill.data.datasets`. The generator is
:mod:`rdistill.data.synthetic`; :mod:`rdistill.data.fundus` draws its images.
"""
