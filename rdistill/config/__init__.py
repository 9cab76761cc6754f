"""A run's config: read, overridden, checked and written; the ``distill`` section as a typed value.

Imports :mod:`rdistill.losses` (their names and parameters, without torch) and folders before it. Begin with
:mod:`rdistill.config.load`: all configs are loaded by its ``load_run`` or ``load_config``.
"""
