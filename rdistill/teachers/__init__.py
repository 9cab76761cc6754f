"""The kinds of teachers: what a teacher's entry in a config says, and which segmentor is built of it.

A kind is a function that gives the ``model`` section of a segmentor of mmseg: everything that has to do with teachers
(strict loading, scoring, features by name, caches, cohorts) then works with it as with any other. :data:`TEACHERS`
holds rdistill's own (:mod:`.own`) and those of users, registered by :func:`register`. Imports
:mod:`rdistill.registration` and :mod:`rdistill.core` alone. Begin with :mod:`.registry`.
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
