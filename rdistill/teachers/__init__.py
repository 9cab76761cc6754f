"""The kinds of teachers: which keys a teacher's entry in a config has, and which segmentor is built from it.

A kind is a function that returns the ``model`` section of an mmseg segmentor. Everything else about teachers (strict
loading, scoring, features by name, caches, cohorts) then works for all kinds. :data:`TEACHERS` holds rdistill's own
kinds (:mod:`.own`) and those of users, registered by :func:`register`. Imports :mod:`rdistill.registration` and
:mod:`rdistill.core` only. Begin with :mod:`.registry`.
"""

from __future__ import annotations

from rdistill.registration.parameters import Choice, Number, Parameter, Switch, Text, Whole
from rdistill.teachers.registry import TEACHERS, Files, TeacherInfo, TeacherModel, register

from . import libraries, own  # isort: skip  # noqa: F401
from .own import module_model  # isort: skip

__all__ = [
    "TEACHERS", "Choice", "Files", "Number", "Parameter", "Switch", "TeacherInfo", "TeacherModel", "Text", "Whole",
    "module_model", "register",
]  # fmt: skip
