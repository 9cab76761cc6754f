"""The registry of teacher kinds: one declaration beside the function that returns the model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rdistill.core.errors import UserError
from rdistill.registration.parameters import Parameter, declared
from rdistill.registration.registry import Registry
from rdistill.registration.user_modules import blaming_user_code

Function = TypeVar("Function", bound=Callable[..., Any])
NOT_PARAMETERS = ("files",)  # arguments that rdistill passes if the function takes them, see `register`
# Keys that all teachers have: no parameter of a kind may have one of these names.
COMMON_KEYS = (
    "type", "params", "model", "custom_imports", "checkpoint", "ema_decay", "weight", "features", "forward", "cache",
    "store", "classes", "unmapped", "class_map", "input_size", "input_scale",
)  # fmt: skip


@dataclass(frozen=True)
class TeacherModel:
    """The model that a kind builds from a teacher's entry."""

    model: Mapping[str, Any]  # the `model` section of an mmseg segmentor
    custom_imports: tuple[str, ...] | Mapping[str, Any] = ()  # modules that register the classes of the model
    config: str | None = None  # the absolute path of the model's config file, if it has one
    classes: tuple[str, ...] = ()  # names of its classes, in order; empty if they are not known


class Files(Protocol):
    """Finds files that a config names: absolute, or relative to the working directory or a folder above the config."""

    def find(self, name: str) -> Path:
        """The file of that name. Raises UserError if there is none."""

    def find_folder(self, name: str) -> Path | None:
        """The absolute path of the folder of that name; None if there is none."""

    def read_teacher(self, name: str) -> TeacherModel:
        """The model of an mmseg config file. Raises UserError with all its mistakes."""


@dataclass(frozen=True)
class TeacherInfo:
    """The declaration of a kind of teacher. See :func:`register` for the meaning of the fields."""

    name: str
    function: Callable[..., Any]
    params: Mapping[str, Parameter] = field(default_factory=dict)
    fusible: bool = False

    def build(self, params: Mapping[str, Any], files: Files) -> TeacherModel:
        """The model of a teacher with these parameters.

        Raises:
            UserError: the function failed, or returned no model.
        """
        passed = {"files": files} if "files" in inspect.signature(self.function).parameters else {}
        blame = nullcontext() if TEACHERS.is_own(self.name) else blaming_user_code(f"teacher kind {self.name!r}")
        with blame:
            model = self.function(**params, **passed)
        model = TeacherModel(model) if isinstance(model, Mapping) else model
        if not isinstance(model, TeacherModel) or not model.model.get("type"):
            raise UserError(
                f"teacher kind {self.name!r}: must return the `model` section of a segmentor of mmseg, got {model!r}"
            )
        return model


TEACHERS: Registry[TeacherInfo] = Registry("teacher kind", "rdistill.teachers")


def register(
    name: str, *, params: Mapping[str, Parameter] | None = None, fusible: bool = False
) -> Callable[[Function], Function]:
    """Declares a kind of teacher; decorates the function that returns its model.

    The function has the form ``kind(*, PARAMETERS) -> mapping``. It returns the ``model`` section of an mmseg
    segmentor, or a :class:`TeacherModel`, which also names the modules in which its classes are registered. A network
    that is no segmentor becomes one by :func:`rdistill.teachers.module_model`. The function may take ``files``
    (:class:`Files`), to find files that a config names. Every other keyword-only argument is a parameter, which
    ``teachers=[dict(type=NAME, ...)]`` sets. The return value is written to the run's config, so it must be plain data.

    Args:
        name: the name in a teacher's ``type``.
        params: name -> allowed values; a parameter without an entry accepts values with the type of its default.
        fusible: whether each BatchNorm of the model is defined right after its convolution, as in mmseg's models. The
            teacher may then be computed with both fused.

    Raises:
        UserError: the name is taken, or the declaration does not fit the function.
    """

    def decorate(function: Function) -> Function:
        where = f"teacher kind {name!r} of {function.__module__}"
        parameters = declared(
            [function], params, NOT_PARAMETERS, where=where, taken=COMMON_KEYS, taken_by="every teacher"
        )
        TEACHERS.add(name, TeacherInfo(name, function, parameters, fusible), function)
        return function

    return decorate
