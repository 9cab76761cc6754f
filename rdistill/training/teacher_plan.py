"""Chooses how a run's teachers are computed, where the config says "auto".

The forward is chosen by a short measurement, and the cache by how often the training pipeline repeats its inputs. Both
may change results in the last bit. So the choice is made once and written to a file; a resumed run, a trial of a sweep
and its repetition use the same choice.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, TypedDict

import torch
from mmengine.config import Config
from mmengine.dist import broadcast_object_list, is_main_process
from torch import Tensor

from rdistill._compat.torch import BatchNorm
from rdistill.checks.store import describe_locations, describe_store
from rdistill.config.distill_spec import FUSED, PLAIN, CacheSpec, DistillSpec, ForwardSpec, TeacherSpec
from rdistill.config.load import LoadedConfig
from rdistill.config.walk import dataset_nodes, is_wrapper, kind_of
from rdistill.core.errors import UserError
from rdistill.core.files import read_json, write_json
from rdistill.core.storage import is_uri
from rdistill.core.words import in_bytes
from rdistill.data.splits import passes_over_images, training_images
from rdistill.distill.distiller import Distiller
from rdistill.distill.teacher import CACHE_FOLDER, STORE_FOLDER, EmaTeacher, KeptCounts, Teacher, make_cache, make_store
from rdistill.distill.teacher_cache import disk_budget, memory_budget
from rdistill.distill.teacher_forward import LOGIT_TOLERANCE
from rdistill.distributed.collectives import gather_objects
from rdistill.models.features import parse_feature
from rdistill.models.segmentor import blank_image, input_channels, training_size
from rdistill.schemas.mappings import PlainConfig
from rdistill.schemas.run import CacheUse, StoreUse

RECORD = "teacher.json"  # the file in the work dir that holds the choice
SHORT_RUN = 500  # measuring costs more than it can save in a run of fewer iterations
MEASURE_SHARE = 0.01  # measuring may take this share of the time that the teacher needs in the run,
MAX_MEASURE_S = 10.0  # but at most this number of seconds
ROUNDS = 2  # timings of each variant, after a warm-up; the shortest one is used
MAX_TIME_RATIO = 0.97  # a variant is chosen only if it takes at most this share of the plain forward's time
MIN_EXPECTED_HITS = 1 / 3  # the cache is used if at least this share of the images is expected to be in it
PATIENCE_PASSES = 3  # passes over the data before a cache without hits is given up
# Transforms that change an image in the same way each time. All others except RandomFlip are taken to be random.
DETERMINISTIC = (
    "LoadImageFromFile", "LoadAnnotations", "MapLabels", "Resize", "Pad", "Normalize", "PackSegInputs",
    "ResizeToMultiple", "ResizeShortestEdge", "CLAHE", "RGB2Gray", "Rerange", "AdjustGamma", "ConcatCDInput",
)  # fmt: skip
WRAPPERS = ("StreamDataset", "RepeatDataset", "ConcatDataset")


class PlanRecord(TypedDict):
    """A :class:`Plan` in ``teacher.json``."""

    forwards: list[PlainConfig | None]  # each a ForwardSpec, as a config has it
    cache: bool
    patience: int
    lines: list[str]


@dataclass(frozen=True)
class Plan:
    """How the teachers of a run are computed."""

    forwards: tuple[ForwardSpec | None, ...]  # one for each teacher; None for an EMA teacher
    cache: bool
    patience: int  # images after which a cache with hardly any hits stops adding entries
    lines: tuple[str, ...]  # the choice, for the user

    def as_json(self) -> PlanRecord:
        """The plan as plain data, for ``teacher.json``."""
        forwards = [None if forward is None else forward.model_dump() for forward in self.forwards]
        return {"forwards": forwards, "cache": self.cache, "patience": self.patience, "lines": list(self.lines)}

    @classmethod
    def from_json(cls, plan: PlanRecord) -> Plan:
        """The plan from what :meth:`as_json` returned."""
        forwards = tuple(None if forward is None else ForwardSpec(**forward) for forward in plan["forwards"])
        return cls(forwards, plan["cache"], plan["patience"], tuple(plan["lines"]))


def choose_plan(distiller: Distiller, run: LoadedConfig, work_dir: Path) -> Plan:
    """Chooses what the config leaves at "auto", or reads an earlier choice from the work dir.

    The main process chooses and sends the plan to all workers.

    Args:
        distiller: the distiller of that config; it is not changed.
        run: the user's config, not that of one worker.
        work_dir: the work dir of the run or the sweep.

    Raises:
        UserError: the cache is on, but a teacher's outputs do not have one entry for each image.
    """
    message: list[Any] = [None]
    if is_main_process():
        try:
            message[0] = _read_or_decide(distiller, run, work_dir)
        except UserError as error:  # sent to the other workers, which would wait without end otherwise
            message[0] = error
    broadcast_object_list(message)
    if isinstance(message[0], UserError):
        raise message[0]
    return message[0]  # type: ignore[no-any-return]


def with_plan(run: LoadedConfig, plan: Plan, cache_dir: Path | None = None) -> LoadedConfig:
    """A copy of a config with the choices of a plan. ``cache_dir`` is used if the config names no cache folder."""
    cfg, spec = copy.deepcopy(run.cfg), run.distillation
    for entry, forward in zip(cfg.distill.teachers, plan.forwards, strict=True):
        if forward is not None:
            entry.forward = forward.model_dump()
    settled = {"mode": "on" if plan.cache else "off"}
    if plan.cache and cache_dir is not None and spec.cache.dir is None:
        settled["dir"] = str(cache_dir)
    cache = spec.cache.model_copy(update=settled)
    written = cache.model_dump(exclude_none=True)
    cfg.distill.cache = written if len(written) > 1 else cache.mode
    store = spec.store
    if store is not None and cache_dir is not None:
        unset = "dir" if store.dir is None else "local" if is_uri(store.dir) and store.local is None else None
        if unset is not None:
            store = store.model_copy(update={unset: str(cache_dir.parent / STORE_FOLDER)})
            cfg.distill.store = store.model_dump(exclude_none=True)
    teachers = tuple(
        teacher if forward is None else teacher.model_copy(update={"forward": forward})
        for teacher, forward in zip(spec.teachers, plan.forwards, strict=True)
    )
    return LoadedConfig(cfg, spec.model_copy(update={"teachers": teachers, "cache": cache, "store": store}))


def without_auto(run: LoadedConfig) -> LoadedConfig:
    """A copy of a config in which every "auto" is replaced by a default that needs no measurement."""
    if run.distill is None:
        return run
    forwards = tuple(None if teacher.ema_decay else teacher.forward or FUSED for teacher in run.distill.teachers)
    return with_plan(run, Plan(forwards, run.distill.cache.mode == "on", 0, ()))


def apply_plan(distiller: Distiller, spec: DistillSpec, work_dir: Path, patience: int) -> None:
    """Sets the forward, the cache and the store of a run's own teachers, from a spec without "auto"."""
    for index, teacher in enumerate(distiller.teachers):
        if type(teacher) is Teacher:  # not an EMA teacher, which changes, nor one that a cohort shares
            own = spec.teacher(index)
            assert own.cache is not None
            teacher.forward = own.forward
            if own.cache.mode == "on":
                teacher.cache = make_cache(teacher.model, own, work_dir, patience)
            if own.store is not None:
                teacher.store = make_store(teacher.model, own, work_dir, distiller.student.data_preprocessor)


def store_lines(distiller: Distiller) -> tuple[str, ...]:
    """Lines for the user that say where the outputs of a run's teachers are stored."""
    all_places = [teacher.store.places for teacher in distiller.teachers if teacher.store is not None]
    return tuple(dict.fromkeys(f"store: {describe_locations(places)}" for places in all_places))


def total_kept_counts(distiller: Distiller) -> KeptCounts:
    """The counts of the stores and caches of all teachers of a run so far."""
    return sum((teacher.kept_counts() for teacher in distiller.teachers), KeptCounts())


def store_facts(distiller: Distiller, before: KeptCounts) -> StoreUse:
    """How often the stores were used in a run, summed over all workers. Empty without stores.

    Args:
        distiller: the distiller of the run.
        before: what :func:`total_kept_counts` returned when the run started.
    """
    use = total_kept_counts(distiller) - before
    images, computed, damaged = _over_workers(use.images_of_store, use.computed, use.damaged)
    if not images:
        return {}
    views = next((teacher.store.spec.views for teacher in distiller.teachers if teacher.store is not None), 0)
    return {"views": views, "images": images, "computed": computed, "damaged": damaged}


def cache_facts(distiller: Distiller, before: KeptCounts) -> CacheUse:
    """How often the caches were used in a run, summed over all workers. Empty without caches.

    Args:
        distiller: the distiller of the run.
        before: what :func:`total_kept_counts` returned when the run started.
    """
    caches = [teacher.cache for teacher in distiller.teachers if teacher.cache is not None]
    use = total_kept_counts(distiller) - before
    gave_up = sum(cache.gave_up for cache in caches)
    images, hits, on_disk, gave_up = _over_workers(use.images_of_cache, use.hits, use.on_disk, gave_up)
    if not images:
        return {}
    facts: CacheUse = {"images": images, "hit_rate": round(hits / images, 4), "from_disk": on_disk}
    if gave_up:
        facts["gave_up"] = True
    return facts


def _over_workers(*counts: int) -> list[int]:
    return [sum(column) for column in zip(*gather_objects(counts), strict=True)]


def _read_or_decide(distiller: Distiller, run: LoadedConfig, work_dir: Path) -> Plan:
    spec = run.distillation
    request = spec.model_dump(mode="json", include={"teachers": {"__all__": {"config", "checkpoint", "forward"}}})
    request["cache"] = spec.cache.mode
    file = work_dir / RECORD
    if file.is_file():
        record = read_json(file)
        if record["asked"] == request:
            return Plan.from_json(record["plan"])
    plan = _decide(distiller, run)
    if spec.cache.mode != "auto" and not any(
        teacher.forward is None and teacher.ema_decay is None for teacher in spec.teachers
    ):
        return plan  # the config sets everything, so there is no choice to write down
    work_dir.mkdir(parents=True, exist_ok=True)
    write_json(file, {"asked": request, "plan": plan.as_json()})
    return plan


def _decide(distiller: Distiller, run: LoadedConfig) -> Plan:
    cfg, spec = run.cfg, run.distillation
    forwards: list[ForwardSpec | None] = []
    lines: list[str] = []
    for index, teacher in enumerate(distiller.teachers):
        if isinstance(teacher, EmaTeacher):
            forwards.append(None)
            continue
        forward, line = spec.teachers[index].forward, None
        if forward is None and spec.store is not None:
            forward = FUSED  # stored entries belong to one forward, so every run must use the same
        elif forward is None:
            forward, line = choose_forward(teacher, cfg, spec.teacher(index))
        forwards.append(forward)
        lines += [line] if line else []
    frozen = [teacher for teacher in distiller.teachers if not isinstance(teacher, EmaTeacher)]
    if spec.store:
        use_cache, line = False, f"store: {describe_store(spec.store)}"
    else:
        use_cache, line = _decide_cache(frozen, cfg, spec.cache)
    patience = PATIENCE_PASSES * training_images(cfg) if use_cache else 0
    return Plan(tuple(forwards), use_cache, patience, (*lines, line) if line else tuple(lines))


# --- the forward ----------------------------------------------------------------------------------------------------


def choose_forward(teacher: Teacher, cfg: Config, spec: TeacherSpec) -> tuple[ForwardSpec, str | None]:
    """The fastest forward whose logits are within 1e-4 of those of the plain forward, and a line about it for the user.

    In a run that is too short for a measurement it is the fused forward, without a line.
    """
    iterations, batch_size = _iterations(cfg), int(cfg.train_dataloader.batch_size)
    if iterations < SHORT_RUN:
        return FUSED, None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((batch_size, input_channels(teacher.model), *training_size(cfg)), generator=generator).to(
        device
    )
    plain = _variant(teacher, PLAIN, spec)
    plain(images[:1])
    seconds = _timed(plain, images[:1])
    variants = [FUSED, ForwardSpec(fuse=True, channels_last=True)]
    if device == "cuda":  # float16 is seldom within 1e-4, but it is by far the fastest if it is
        variants += [variant.model_copy(update={"autocast": "float16"}) for variant in variants]
    budget = min(MAX_MEASURE_S, MEASURE_SHARE * iterations * batch_size * seconds)
    count = min(batch_size, int(budget / seconds / (len(variants) + 1) / (ROUNDS + 1)))
    if count < 1:
        return FUSED, None
    timed = measure(teacher, spec, variants, images[:count])
    best = min(timed, key=lambda variant: timed[variant])
    chosen = best if timed[best] <= MAX_TIME_RATIO * timed[PLAIN] else PLAIN
    unit = "a batch" if count == batch_size else f"for {count} of {batch_size} images"
    instead = f" instead of {timed[PLAIN]:.3g} s" if chosen != PLAIN else ", the quickest"
    return chosen, f"forward {chosen}: {timed[chosen]:.3g} s {unit}{instead}"


def measure(
    teacher: Teacher, spec: TeacherSpec, variants: Sequence[ForwardSpec], images_nchw: Tensor
) -> dict[ForwardSpec, float]:
    """Seconds of the plain forward and of each variant, timed in turn; without variants whose logits are not close."""
    ready = {PLAIN: _variant(teacher, PLAIN, spec)}
    expected = ready[PLAIN](images_nchw)
    for variant in variants:
        candidate = _variant(teacher, variant, spec)
        try:
            outputs = candidate(images_nchw)
        except RuntimeError:  # a layer that needs another memory format or precision
            continue
        logits = [name for name in expected if name in teacher.heads] or list(expected)
        if all(_is_close(outputs[name], expected[name]) for name in logits):
            ready[variant] = candidate
    rounds = [{variant: _timed(teacher, images_nchw) for variant, teacher in ready.items()} for _ in range(ROUNDS)]
    return {variant: min(seconds[variant] for seconds in rounds) for variant in ready}


def _is_close(actual: Tensor, expected: Tensor) -> bool:
    return torch.allclose(actual.float(), expected.float(), rtol=0, atol=LOGIT_TOLERANCE)


def _variant(teacher: Teacher, forward: ForwardSpec, spec: TeacherSpec) -> Teacher:
    """A copy of a teacher with another forward, which takes images as its own preprocessor normalises them."""
    model = copy.deepcopy(teacher.model)
    return Teacher(model, teacher.capture.names, model.data_preprocessor, 1.0, forward, spec.features or ())


def _timed(teacher: Teacher, images_nchw: Tensor) -> float:
    """Seconds of one forward pass."""
    if images_nchw.is_cuda:
        torch.cuda.synchronize()
    since = time.perf_counter()
    teacher(images_nchw)
    if images_nchw.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - since


# --- the cache ------------------------------------------------------------------------------------------------------


def training_variants(cfg: Config) -> list[float] | str:
    """The probability of each version of an image that the training may see.

    If an image has too many versions to count, it is a text that says which step makes them.
    """
    if (cfg.model.get("data_preprocessor") or {}).get("batch_augments"):
        return "data_preprocessor.batch_augments makes new images each time"
    by_dataset: list[list[float]] = []
    for _, node in dataset_nodes(cfg.train_dataloader.dataset):
        inner = is_wrapper(node)
        if inner and kind_of(node) not in WRAPPERS:
            return f"{kind_of(node)} may make new images each time"
        variants = pipeline_variants(node.get("pipeline") or ())
        if isinstance(variants, str):
            return variants
        if not inner:
            by_dataset.append(variants)
    return max(by_dataset, key=len)  # the dataset that repeats the least


def pipeline_variants(pipeline: Sequence[Mapping[str, Any]]) -> list[float] | str:
    """Like :func:`training_variants`, but for one pipeline."""
    choices: list[list[float]] = []
    for step in pipeline:
        kind = kind_of(step)
        if kind == "RandomFlip":
            choices.append(_flips(step))
        elif kind not in DETERMINISTIC:
            return f"{kind} makes new images each time"
    return [math.prod(probabilities) for probabilities in product(*choices)]


def expected_hits(variants: Sequence[float], passes: float) -> float:
    """The share of draws, over ``passes`` of the data, whose image was drawn before in the same version.

    ``variants`` has the probability of each version.
    """
    distinct = sum(1 - (1 - probability) ** passes for probability in variants)
    return max(0.0, 1 - distinct / passes) if passes > 0 else 0.0


def expected_known(run: LoadedConfig) -> float:
    """The share of a training's images whose teacher outputs are expected to be remembered; 0 without a cache.

    Args:
        run: in which nothing is left open.
    """
    if run.distill is None or run.distill.cache.mode != "on" or run.distill.store is not None:
        return 0.0
    variants = training_variants(run.cfg)
    return 0.0 if isinstance(variants, str) else expected_hits(variants, passes_over_images(run.cfg))


def _decide_cache(teachers: Sequence[Teacher], cfg: Config, cache: CacheSpec) -> tuple[bool, str]:
    """Whether the cache is used, and a line for the user that says why."""
    if not teachers or cache.mode == "off":
        return False, ""
    if cache.mode == "on":
        sizes = [_bytes_per_image(teacher, cfg) for teacher in teachers]
        if problem := next((size for size in sizes if isinstance(size, str)), None):
            raise UserError(f"distill.cache: {problem}; set distill.cache=off")
        return True, "cache on"
    variants = training_variants(cfg)
    if isinstance(variants, str):
        return False, f"cache off: {variants}"
    images, passes = training_images(cfg), passes_over_images(cfg)
    share = expected_hits(variants, passes)
    if share < MIN_EXPECTED_HITS:
        return False, f"cache off: only {share:.0%} of the images are expected to be known"
    sizes = [_bytes_per_image(teacher, cfg) for teacher in teachers]
    if problem := next((size for size in sizes if isinstance(size, str)), None):
        return False, f"cache off: {problem}"
    size, distinct = sum(map(int, sizes)), images * passes * (1 - share)
    room = memory_budget(cache) + disk_budget(cache, Path(cache.dir or CACHE_FOLDER).absolute())
    share *= min(1.0, room / max(1.0, distinct * size))
    text = f"{share:.0%} of the images are expected to be known, {in_bytes(size)} each"
    return share >= MIN_EXPECTED_HITS, f"cache {'on' if share >= MIN_EXPECTED_HITS else 'off'}: {text}"


def _bytes_per_image(teacher: Teacher, cfg: Config) -> int | str:
    """Bytes of a teacher's outputs for one image; or a text that says why they depend on more than that image."""
    for name in teacher.capture.names:
        if parse_feature(name, teacher.model).kind == "parameter":
            return f"a teacher's feature {name!r} is a parameter"
    for name, module in teacher.model.named_modules():
        if isinstance(module, BatchNorm) and module.running_mean is None:
            return f"the teacher's {name} normalises over the whole batch"
    outputs = teacher(blank_image(teacher.model, training_size(cfg)))
    for name, value in outputs.items():
        if value.ndim == 0 or len(value) != 1:
            return f"a teacher's feature {name!r} is not one for each image (shape {tuple(value.shape)} for one)"
    return sum(value.nbytes for value in outputs.values())


def _flips(step: Mapping[str, Any]) -> list[float]:
    """The probabilities that mmcv's RandomFlip does not flip, and that it flips in each direction; without zeros."""
    prob, direction = step.get("prob"), step.get("direction", "horizontal")
    if isinstance(prob, (list, tuple)):
        shares = [float(share) for share in prob]
    else:
        directions = list(direction) if isinstance(direction, (list, tuple)) else [direction]
        shares = [float(prob or 0.0) / len(directions)] * len(directions)
    return [share for share in (1 - sum(shares), *shares) if share > 0]


def _iterations(cfg: Config) -> int:
    if cfg.train_cfg.get("max_iters"):
        return int(cfg.train_cfg.max_iters)
    return math.ceil(cfg.train_cfg.max_epochs * training_images(cfg) / cfg.train_dataloader.batch_size)
