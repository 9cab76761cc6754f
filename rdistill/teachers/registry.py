"""What a kind of teacher is: one declaration beside the function that gives its model."""

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
NOT_PARAMETERS = ("files",)  # that a kind gets by itself, as far as it takes them; see `register`
# Keys that every teacher has: no parameter of another kind may be called like one of them.
COMMON_KEYS = (
    "type", "params", "model", "custom_imports", "checkpoint", "ema_decay", "weight", "features", "forward", "cache",
    "store", "classes", "unmapped", "class_map", "input_size", "input_scale",
)  # fmt: skip


@dataclass(frozen=True)
class TeacherModel:
    """What a kind makes of a teacher's entry."""

    model: Mapping[str, Any]  # the `model` section of a segmentor of mmseg
    custom_imports: tuple[str, ...] | Mapping[str, Any] = ()  # modules that register what the model is made of
    config: str | None = None  # the config file that it is of, absolute
    classes: tuple[str, ...] = ()  # names of what it tells apart, in order; empty where they are not known


class Files(Protocol):
    """Files as a config names them: absolute, or from the working directory or a folder above the config."""

    def find(self, name: str) -> Path:
        """The file of that name. Raises UserError where there is none."""

    def find_folder(self, name: str) -> Path | None:
        """The folder of that name, absolute; None where there is none."""

    def read_teacher(self, name: str) -> TeacherModel:
        """The model of an mmseg config file. Raises UserError: every problem of it."""


@dataclass(frozen=True)
class TeacherInfo:
    """What there is to know about a kind of teacher. See :func:`register` for what the fields mean."""

    name: str
    function: Callable[..., Any]
    params: Mapping[str, Parameter] = field(default_factory=dict)
    fusible: bool = False

    def build(self, params: Mapping[str, Any], files: Files) -> TeacherModel:
        """The model of a teacher with these parameters.

        Raises:
            UserError: the function failed, or returned no model.
        """
        own = {"files": files} if "files" in inspect.signature(self.function).parameters else {}
        blame = nullcontext() if TEACHERS.is_own(self.name) else blaming_user_code(f"teacher kind {self.name!r}")
        with blame:
            model = self.function(**params, **own)
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
    """Declares a kind of teacher; decorates the function that gives its model.

    The function is ``kind(*, PARAMETERS) -> mapping``: the ``model`` section of a segmentor of mmseg, or a
    :class:`TeacherModel` that also names the modules in which its classes are registered. A network that is no
    segmentor becomes one by :func:`rdistill.teachers.module_model`. By name the function also gets ``files``
    (:class:`Files`), to find files that a config names; every other keyword-only argument is a parameter, which
    ``teachers=[dict(type=NAME, ...)]`` sets. What it returns is written into the run's config: it must be plain data.

    Args:
        name: what ``type`` of a teacher calls it.
        params: name -> what the parameter may be; one that is left out takes what has the type of its default.
        fusible: whether each BatchNorm of the model is defined right after the convolution that it follows, as mmseg's
            are: the teacher may then be computed with both as one.

    Raises:
        UserError: the name is taken, or the declaration is not that of the function.
    """

    def decorate(function: Function) -> Function:
        where = f"teacher kind {name!r} of {function.__module__}"
        parameters = declared(
            [function], params, NOT_PARAMETERS, where=where, taken=COMMON_KEYS, taken_by="every teacher"
        )
        TEACHERS.add(name, TeacherInfo(name, function, parameters, fusible), function)
        return function

    return decorate
