"""Fills a store before training with Ray tasks on the cluster (`rdistill store build`).

Each task augments some views of some images, looks them up and computes the missing outputs. Therefore a build that was
stopped continues where it ended, and uses what runs have computed.
"""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import ray
import torch
from mmengine.dataset import pseudo_collate
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.data import DataLoader, Dataset

from rdistill.checks.run import Report, build_or_report, check_run
from rdistill.config.load import LoadedConfig, import_custom_modules
from rdistill.core.errors import RunError, UserError, cause_of
from rdistill.core.files import nearest_existing
from rdistill.core.storage import StorageError, is_uri
from rdistill.core.words import counted, in_bytes
from rdistill.core.work_dir import require_work_dir
from rdistill.data.datasets import VIEW
from rdistill.distill.distiller import Distiller, build_distiller
from rdistill.distill.store_files import store_files, why_it_failed, write_about
from rdistill.distill.teacher import Teacher
from rdistill.distill.teacher_store import own_folder_name, packed
from rdistill.distributed.cluster import connected, killed_for_memory, require_resources, visible_wait
from rdistill.models.precision import autocast
from rdistill.models.quiet_mmseg import DATASETS
from rdistill.schemas.mappings import Arguments
from rdistill.schemas.store import StorePlan, ViewsDone
from rdistill.store.contents import teacher_name
from rdistill.training.console import as_clock, updates_in_place
from rdistill.training.ray_train import Resources
from rdistill.training.runner import prepare_config
from rdistill.training.teacher_plan import apply_plan, without_auto

MAX_VIEWS_PER_TASK = 128  # upper bound: a killed task loses at most these views
MIN_TASKS_PER_SLOT = 4  # so that no node is idle long before the others
PROGRESS_LINES = 10  # number of progress lines if the console cannot show a bar
MAX_RETRIES = 3  # how often a task is restarted after its process was lost


def build_store(
    run: LoadedConfig,
    scratch: Path,
    *,
    cpus_per_worker: float = 1.0,
    gpus_per_worker: float | None = None,
    address: str | None = None,
    trust_checkpoint: bool = False,
    console: Console,
) -> ViewsDone:
    """Computes the outputs that a store lacks for all views of a config's training images.

    Args:
        run: a run with ``distill.store`` that has a ``dir``.
        scratch: folder for Ray's files and logs.
        cpus_per_worker, gpus_per_worker: resources of one task; by default one GPU if there are GPUs.
        address: address of a Ray cluster; by default the one the process runs in, or else a new one on this machine.
        trust_checkpoint: let a teacher's checkpoint run the Python code that it carries.
        console: shows sizes and progress.

    Raises:
        UserError: a mistake in the config, the data or the resources, or too little disk space; nothing is computed.
        RunError: a task failed; the outputs that were computed before stay in the store.
    """
    run = _with_absolute_dir(run)
    resources = Resources(1, cpus_per_worker, gpus_per_worker)

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    with connected(address, scratch, notify=say):
        need = resources.per_worker()
        slots = require_resources(need, "a task of the build")
        options: Arguments = dict(num_cpus=need["CPU"], num_gpus=need.get("GPU", 0))
        shared = ray.put((run, trust_checkpoint))
        plan_task = ray.remote(_plan).options(**options, max_retries=0)
        started = time.perf_counter()
        with visible_wait(need, "one task", say):
            plan: StorePlan = _result(plan_task.remote([shared]))
            for line in _describe(plan, run):
                say(line)
            _require_room(plan, run)
            _require_writable(plan, run)
            total = plan["images"] * plan["views"]
            chunks = list(_chunks(plan, slots))
            tasks, at_once = counted(len(chunks), "task"), min(slots, len(chunks))
            say(f"building  {tasks}, {at_once} at a time on {need['CPU']:g} CPU each")
            task = ray.remote(_build).options(**options, max_retries=MAX_RETRIES)
            totals = ViewsDone(views=0, computed=0, written=0, damaged=0, notes=[])
            known_notes: set[str] = set()
            for part in _add_up(_results(task, shared, chunks, slots), total, console, totals):
                for note in part["notes"]:
                    if note not in known_notes:
                        say(f"note      {note}")
                        known_notes.add(note)
        seconds = time.perf_counter() - started
    kept = totals["views"] - totals["computed"]
    say(
        f"done      {counted(totals['views'], 'view')}: {totals['computed']} computed, {kept} were there; "
        f"{in_bytes(totals['written'])} written, {as_clock(seconds)}"
    )
    return totals


def _with_absolute_dir(run: LoadedConfig) -> LoadedConfig:
    """Returns the run with an absolute path of the store, for all nodes.

    Raises:
        UserError: it names no store, or a folder that cannot be written to.
    """
    store = None if run.distill is None else run.distill.store
    if store is None:
        raise UserError("distill.store: is not set, so no run would read the outputs; set distill.store.dir=FOLDER")
    if store.keep == "nothing":
        raise UserError("distill.store.keep: 'nothing' stores no outputs; set 'logits' or 'features'")
    if store.dir is None:
        raise UserError("distill.store.dir: is not set; name the folder or URI from which later runs read the outputs")
    if is_uri(store.dir):
        return run
    require_work_dir(store.dir, "distill.store.dir")
    cfg = copy.deepcopy(run.cfg)
    cfg.distill.store.dir = str(Path(store.dir).absolute())
    assert run.distill is not None
    update = {"store": store.model_copy(update={"dir": cfg.distill.store.dir})}
    return LoadedConfig(cfg, run.distill.model_copy(update=update))


def _describe(plan: StorePlan, run: LoadedConfig) -> Iterator[str]:
    assert run.distill is not None and run.distill.store is not None and run.distill.store.dir is not None
    for about in plan["teachers"]:
        yield f"teacher   {teacher_name(about)}"
    total = plan["images"] * plan["views"]
    yield f"views     {plan['views']} of each of {counted(plan['images'], 'image')}: {total}"
    yield f"kept      {', '.join(plan['outputs'])}"
    yield f"size      {in_bytes(plan['bytes_a_view'])} a view, {in_bytes(total * plan['bytes_a_view'])} in all"
    yield f"store     {run.distill.store.dir}"
    for note in plan["notes"]:
        yield f"note      {note}"


def _require_room(plan: StorePlan, run: LoadedConfig) -> None:
    """Raises UserError if the store does not fit on the disk, with its existing files counted in."""
    assert run.distill is not None and run.distill.store is not None and run.distill.store.dir is not None
    if is_uri(run.distill.store.dir):
        return
    folder = Path(run.distill.store.dir)
    existing = nearest_existing(folder)
    kept = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    needed, free = plan["images"] * plan["views"] * plan["bytes_a_view"], shutil.disk_usage(existing).free
    if needed > free + kept:
        raise UserError(
            f"distill.store.dir: the store takes {in_bytes(needed)}, and {in_bytes(free)} are free at {existing}; set "
            f"fewer distill.store.views or bits, or another folder"
        )


def _require_writable(plan: StorePlan, run: LoadedConfig) -> None:
    """Writes the description of each teacher to the store. Raises UserError if this fails.

    A run goes on without a store that fails, but a build would compute everything for nothing.
    """
    assert run.distill is not None and run.distill.store is not None and run.distill.store.dir is not None
    where = run.distill.store.dir
    try:
        for about in plan["teachers"]:
            write_about(store_files(where), own_folder_name(about), about)
    except (OSError, StorageError) as error:
        why = why_it_failed(where, error)
        raise UserError(f"distill.store.dir {where}: cannot be written to: {why}; choose another") from error


def _chunks(plan: StorePlan, slots: int) -> Iterator[list[tuple[int, int]]]:
    """Yields chunks of (image, view), with the first view of all images first, which is the order of training."""
    pairs = [(image, view) for view in range(plan["views"]) for image in range(plan["images"])]
    size = max(plan["batch"], min(MAX_VIEWS_PER_TASK, -(-len(pairs) // (MIN_TASKS_PER_SLOT * slots))))
    for start in range(0, len(pairs), size):
        yield pairs[start : start + size]


def _results(task: Any, shared: Any, chunks: Sequence[list[tuple[int, int]]], slots: int) -> Iterator[ViewsDone]:
    """Runs tasks and yields their results as they end; Ray always has some more tasks than there are slots."""
    waiting = list(reversed(chunks))
    running: list[Any] = []
    while waiting or running:
        while waiting and len(running) < 2 * slots:
            running.append(task.remote([shared], waiting.pop()))
        ended, running = ray.wait(running)
        for reference in ended:
            yield _result(reference)


def _result(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = cause_of(error)
        raise (UserError(*cause.problems) if isinstance(cause, UserError) else cause) from None
    except ray.exceptions.OutOfMemoryError as error:
        raise RunError(f"{killed_for_memory(error)}; lower --batch-size; the same command continues") from None
    except ray.exceptions.WorkerCrashedError:
        raise RunError(f"a task's process was lost {MAX_RETRIES + 1} times; the same command continues") from None


def _add_up(parts: Iterator[ViewsDone], total: int, console: Console, totals: ViewsDone) -> Iterator[ViewsDone]:
    """Adds up the parts in ``totals``, and shows progress and remaining time as a bar or in ten lines."""
    started = time.perf_counter()

    def add(part: ViewsDone) -> None:
        for key in ("views", "computed", "written", "damaged"):
            totals[key] += part[key]  # type: ignore[literal-required]

    if updates_in_place(console):
        with Progress(TextColumn("build"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                      console=console, transient=True) as bar:  # fmt: skip
            bar_task = bar.add_task("build", total=total)
            for part in parts:
                add(part)
                bar.advance(bar_task, part["views"])
                yield part
        return
    line = 0
    for part in parts:
        add(part)
        if totals["views"] * PROGRESS_LINES // total > line and totals["views"] < total:
            line = totals["views"] * PROGRESS_LINES // total
            seconds_left = (time.perf_counter() - started) / totals["views"] * (total - totals["views"])
            console.print(
                f"built     {totals['views']} of {total} views, {totals['computed']} computed; "
                f"{as_clock(seconds_left)} left",
                highlight=False,
            )
        yield part


# --- in a task ------------------------------------------------------------------------------------------------------


class _Builder:
    """Computes views in a process; holds the training images and the teachers, which are loaded once."""

    def __init__(self, run: LoadedConfig, distiller: Distiller) -> None:
        self.distiller = distiller
        self.run = without_auto(run)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.distiller.to(device).eval()
        apply_plan(self.distiller, self.run.distillation, Path("work_dirs", "store"), 0)
        self.cfg = prepare_config(self.run, Path("work_dirs", "store"), 0, None)
        self.dataset = DATASETS.build(copy.deepcopy(self.cfg.train_dataloader.dataset))
        self.teachers = [
            _with_listed_features(teacher) for teacher in self.distiller.teachers if teacher.store is not None
        ]

    @property
    def images(self) -> int:
        return len(self.dataset) + int(self.dataset.without_labels)

    def build(self, pairs: Sequence[tuple[int, int]]) -> ViewsDone:
        """Computes the missing outputs of some (image, view)."""
        stores = [teacher.store for teacher in self.teachers if teacher.store is not None]
        for store in stores:
            store.computed = store.written = store.damaged = 0
            store.notes.clear()
        loader = DataLoader(
            _Views(self.dataset, pairs), batch_size=int(self.cfg.train_dataloader.batch_size),
            collate_fn=pseudo_collate, num_workers=self._loaders(),
        )  # fmt: skip
        shapes: set[tuple[int, ...]] = set()
        for batch in loader:
            shapes.update(tuple(image.shape[-2:]) for image in batch["inputs"])
            self._require_one_size(shapes)
            self._compute(self.distiller, batch)
        return ViewsDone(
            views=len(pairs),
            computed=max(store.computed for store in stores),
            written=sum(store.written for store in stores),
            damaged=sum(store.damaged for store in stores),
            notes=[note for store in stores for note in store.notes],
        )

    @torch.no_grad()
    def _compute(self, distiller: Distiller, batch: Any) -> None:
        data = distiller.data_preprocessor(batch, True)
        inputs = data["inputs"]
        views = [sample.metainfo.get(VIEW) for sample in data["data_samples"]]
        with autocast(self.cfg.optim_wrapper, inputs.device.type):
            for teacher in self.teachers:
                teacher(inputs, views)

    def _loaders(self) -> int:
        """Returns the number of data loading processes: none without a GPU, because the CPUs then run the teachers."""
        return int(self.cfg.train_dataloader.get("num_workers") or 0) if torch.cuda.is_available() else 0

    def _require_one_size(self, shapes: set[tuple[int, ...]]) -> None:
        """Raises UserError if the padding of a training image depends on the other images of its batch."""
        if len(shapes) > 1 and getattr(self.distiller.data_preprocessor, "size", None) is None:
            sizes = " and ".join("x".join(map(str, shape)) for shape in sorted(shapes)[:2])
            raise UserError(
                f"distill.store: training images have several sizes ({sizes}), so a teacher's input depends on the "
                f"other images of the batch; set model.data_preprocessor.size to the training size"
            )

    def plan(self) -> StorePlan:
        """Runs the teachers on one image, and returns what the build will compute and its size."""
        (batch,) = DataLoader(_Views(self.dataset, [(0, 0)]), batch_size=1, collate_fn=pseudo_collate)
        inputs = self.distiller.data_preprocessor(batch, True)["inputs"]
        outputs, size = [], 0
        spec = self.run.distillation.store
        assert spec is not None
        with autocast(self.cfg.optim_wrapper, inputs.device.type):
            for teacher in self.teachers:
                for name, value in teacher(inputs).items():
                    outputs.append(f"{name} {'x'.join(map(str, value.shape[1:]))}")
                    of_logits = teacher.store is not None and name in teacher.store.logits
                    size += len(packed(value, spec.bits, spec.top_k if of_logits else None))
        return StorePlan(
            images=self.images,
            views=spec.views,
            teachers=[teacher.store.about for teacher in self.teachers if teacher.store is not None],
            outputs=outputs,
            bytes_a_view=size,
            batch=int(self.cfg.train_dataloader.batch_size),
            notes=[],
        )


def _with_listed_features(teacher: Teacher) -> Teacher:
    """Returns a teacher that outputs all listed features if the store keeps features: a sweep may use any of them."""
    assert teacher.store is not None
    if teacher.store.spec.keep != "features":
        return teacher
    names = dict.fromkeys([*teacher.capture.names, *teacher.listed])
    return teacher.with_features(tuple(names))


class _Views(Dataset[Any]):
    """Some views of the images of a :class:`rdistill.data.datasets.StreamDataset`."""

    def __init__(self, dataset: Any, pairs: Sequence[tuple[int, int]]) -> None:
        self._dataset, self._pairs = dataset, pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Any:
        return self._dataset.view(*self._pairs[index])


@cache
def _builders() -> dict[str, _Builder]:
    """Returns the builders of this process, by the id of their run; Ray runs its tasks one after the other."""
    return {}


def _builder(shared: Any) -> _Builder:
    if shared.hex() not in _builders():
        run, trust_checkpoint = ray.get(shared)
        import_custom_modules(run.cfg)
        _keep(shared, _Builder(run, build_distiller(run, seed=0, trust_checkpoint=trust_checkpoint)))
    return _builders()[shared.hex()]


def _keep(shared: Any, builder: _Builder) -> None:
    _builders().clear()
    _builders()[shared.hex()] = builder


def _plan(shared: list[Any]) -> StorePlan:
    """Checks the run on a node of the tasks, and measures one image. ``shared``: a list with an object reference."""
    run, trust_checkpoint = ray.get(shared[0])
    import_custom_modules(run.cfg)
    report = Report()
    distiller = build_or_report(run, report, seed=0, trust_checkpoint=trust_checkpoint)
    report.raise_problems()
    assert distiller is not None
    checked = check_run(_without_store_dir(run), distiller=distiller, trust_checkpoint=trust_checkpoint)
    checked.raise_problems()
    builder = _Builder(run, distiller)
    _keep(shared[0], builder)
    plan = builder.plan()
    plan["notes"] += checked.notes
    return plan


def _without_store_dir(run: LoadedConfig) -> LoadedConfig:
    """Returns the run without the store's folder: the checks refuse a store without the teacher that a build adds."""
    store = run.distillation.store
    assert store is not None
    unnamed = store.model_copy(update={"dir": None, "local": None})
    return LoadedConfig(run.cfg, run.distillation.model_copy(update={"store": unnamed}))


def _build(shared: list[Any], pairs: list[tuple[int, int]]) -> ViewsDone:
    return _builder(shared[0]).build(pairs)
