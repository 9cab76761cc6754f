"""Settings of the trackers of a run or a sweep: wandb, TensorBoard, MLflow; from a config, a sweep file or --track.

They must not contain secrets, because they are written to files with the results. Keys come from the environment.
"""

from __future__ import annotations

import atexit
import importlib
import importlib.util
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError

from rdistill._compat.wandb import import_whole
from rdistill.core.errors import UserError
from rdistill.core.files import read_json, read_text, write_json
from rdistill.core.redaction import secrets_in
from rdistill.core.validation import Section, Whole, mistakes, short

RUN_IDS = "tracking.json"  # the file in the work dir with the trackers' run ids, which a resumed run continues
IMAGES = 3  # default number of images that are tracked at each validation
TEMPORARY = ".tmp"  # the folder for temporary files in the work dir
PROJECT = "rdistill"
MLFLOW_URI = "MLFLOW_TRACKING_URI"


class Wandb(Section):
    """Settings of Weights & Biases. The key is in WANDB_API_KEY, or was stored by `wandb login`."""

    mode: Literal["online", "offline", "disabled"] | None = None  # default: WANDB_MODE, or else offline
    project: str = PROJECT
    entity: str | None = None
    group: str | None = None  # used for the runs of a sweep only; default: the name of the sweep
    name: str | None = None  # used for a single run only; default: the name of the work dir
    tags: tuple[str, ...] = ()
    notes: str | None = None


class Tensorboard(Section):
    """Settings of TensorBoard, whose event files are in the folder ``tensorboard`` of the work dir."""


class Mlflow(Section):
    """Settings of MLflow. Credentials are in MLFLOW_TRACKING_USERNAME and _PASSWORD, or _TOKEN."""

    tracking_uri: str | None = None  # default: MLFLOW_TRACKING_URI, or else mlflow.db in the work dir
    experiment: str | None = None  # default: 'rdistill'; for a sweep, its name
    tags: dict[str, str] = Field(default={})


class Tracking(Section):
    """The trackers of a run or a sweep; None for a tracker that is not used."""

    wandb: Wandb | None = None
    tensorboard: Tensorboard | None = None
    mlflow: Mlflow | None = None
    images: Whole = Field(default=IMAGES, ge=0)  # number of images that are tracked at each validation

    @property
    def names(self) -> list[str]:
        return [name for name in TRACKERS if getattr(self, name) is not None]


TRACKERS: dict[str, type[Section]] = {"wandb": Wandb, "tensorboard": Tensorboard, "mlflow": Mlflow}
PACKAGES = {"wandb": ("wandb", "wandb"), "tensorboard": ("tensorboardX", "tensorboardX tensorboard"),
            "mlflow": ("mlflow", "mlflow-skinny sqlalchemy alembic")}  # fmt: skip


def parse_tracking(setting: Any, where: str = "tracking") -> Tracking:
    """Parses and checks the setting of a config, a sweep file or ``--track``.

    Args:
        setting: ``"wandb"``, ``["wandb", "mlflow"]``, or ``{"wandb": {"mode": "offline"}, "images": 0}``; for a tracker
            without options the value may be None or True.
        where: the key or option, for messages.

    Raises:
        UserError: all mistakes, one line each.
    """
    if isinstance(setting, str):
        setting = [name for name in re.split(r"[,\s]+", setting) if name]
    if isinstance(setting, (list, tuple)):
        setting = {str(name): {} for name in setting}
    if setting is None or setting is False:  # YAML's `off`
        return Tracking()
    if not isinstance(setting, Mapping):
        raise UserError(f"{where}: must name trackers ({', '.join(TRACKERS)}), got {short(setting)}")
    content = {name: {} if options is None or options is True else options for name, options in setting.items()}
    content = {name: options for name, options in content.items() if name not in TRACKERS or options is not False}
    problems = [problem for name, options in content.items() for problem in _secrets(f"{where}.{name}", options)]
    if problems:
        raise UserError(*problems)
    try:
        return Tracking.model_validate(content)
    except ValidationError as error:
        raise UserError(*mistakes(error, Tracking, content, where)) from None


def require_trackers(tracking: Tracking, where: str = "tracking") -> None:
    """Raises UserError for a tracker that is not installed, or that has no key."""
    problems = []
    for name in tracking.names:
        package, install = PACKAGES[name]
        if importlib.util.find_spec(package) is None:
            problems.append(f"{where}: {name} is not installed; `pip install {install}`")
        elif name == "wandb" and tracking.wandb and wandb_mode(tracking.wandb) == "online" and not _has_wandb_key():
            problems.append(f"{where}.wandb.mode: online needs a key: set WANDB_API_KEY, or use offline and sync later")
    if problems:
        raise UserError(*problems)


def is_disabled(name: str, tracking: Tracking) -> bool:
    """Whether a tracker is configured, but disabled."""
    return name == "wandb" and tracking.wandb is not None and wandb_mode(tracking.wandb) == "disabled"


def wandb_mode(settings: Wandb) -> str:
    """The mode 'online', 'offline' or 'disabled', from the settings or the environment."""
    return settings.mode or os.environ.get("WANDB_MODE") or "offline"


def mlflow_uri(settings: Mlflow, work_dir: Path) -> tuple[str, str | None]:
    """The tracking URI and the artifact location of MLflow; the location is None if the user has set a URI."""
    uri = settings.tracking_uri or os.environ.get(MLFLOW_URI)
    if uri:
        return uri, None
    return f"sqlite:///{work_dir.absolute() / 'mlflow.db'}", (work_dir.absolute() / "mlartifacts").as_uri()


def prepare_libraries() -> None:
    """Sets environment variables that the trackers' libraries read at import; variables of the user stay."""
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # the default of seven takes minutes for each value
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")


@contextmanager
def environment_kept(name: str) -> Iterator[None]:
    """Restores a variable at the end of the context: MLflow sets it, and the next run would take it for the user's."""
    before = os.environ.get(name)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


def import_wandb(work_dir: Path) -> Any:
    """Imports wandb. Its temporary files go to a folder in the work dir, which the next start clears."""
    prepare_libraries()
    folder = work_dir / TEMPORARY
    if "wandb" in sys.modules:
        return importlib.import_module("wandb")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    before, tempfile.tempdir = tempfile.tempdir, str(folder)  # wandb makes its temporary folders at import
    try:
        return import_whole()
    finally:
        tempfile.tempdir = before


def load_run_ids(work_dir: Path) -> dict[str, str]:
    """Tracker -> id of its run that was started in a work dir before."""
    file = work_dir / RUN_IDS
    return read_json(file) if file.is_file() else {}


def save_run_ids(work_dir: Path, ids: Mapping[str, str]) -> None:
    write_json(work_dir / RUN_IDS, ids)


def viewing_hints(tracking: Tracking, work_dir: Path) -> list[str]:
    """A line for each tracker that says how to view its data."""
    lines = []
    if tracking.wandb and (mode := wandb_mode(tracking.wandb)) != "disabled":
        upload = f"offline; upload with `wandb sync {work_dir}/wandb/offline-run-*`"
        lines.append(f"wandb     {upload if mode == 'offline' else f'project {tracking.wandb.project}'}")
    if tracking.tensorboard:
        lines.append(f"tracked   `tensorboard --logdir {work_dir}/tensorboard`")
    if tracking.mlflow:
        lines.append(f"mlflow    `mlflow ui --backend-store-uri {mlflow_uri(tracking.mlflow, work_dir)[0]}`")
    return lines


def _has_wandb_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    files = [Path(os.environ.get("NETRC", "~/.netrc")).expanduser(), Path("~/_netrc").expanduser()]
    return any(file.is_file() and host in read_text(file) for file in files)


def _secrets(where: str, options: Any) -> list[str]:
    """Problems for keys and passwords in settings that are written to files with the results."""
    variable = "WANDB_API_KEY" if where.endswith(".wandb") else "MLFLOW_TRACKING_TOKEN"
    problems = []
    for place, found_by in secrets_in(options, where):
        if found_by == "name":
            problems.append(f"{place}: a secret does not belong in a file kept with results; set {variable}")
        else:
            fix = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" if where.endswith(".mlflow") else variable
            problems.append(f"{place}: has a password in it, or a key, and is kept with the results; set {fix}")
    return problems
