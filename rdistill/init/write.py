"""Writes the texts of a study's files: the shared config, student, teacher, distillation and sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rdistill.config.render import assignment, comment_line, literal
from rdistill.core.files import to_json
from rdistill.init.models import Fitted
from rdistill.schemas.mappings import PlainConfig

FILES = ("base.py", "student.py", "teacher.py", "distill.py", "sweep.yaml")
LR, TRANSFORMER_LR = 1e-3, 3e-4


@dataclass(frozen=True)
class Study:
    """All values that appear in the files of a study."""

    out: Path
    work: Path  # folder of the study's runs
    data_root: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    datasets: Mapping[str, PlainConfig]  # 'train', 'val', 'test' -> keys of the dataset
    size: int  # pixels of the shorter side, and of a training crop's sides
    scale: tuple[int, int]  # mmcv's, width first
    loader: PlainConfig  # the pipeline's step that reads images
    batch: int
    val_batch: int
    iters: int
    student: Fitted
    teacher: Fitted
    absent: tuple[str, ...] = ()  # classes that no training mask contains
    label_map: Mapping[int, int] = field(default_factory=dict)
    reduce_zero_label: bool = False
    features: tuple[Sequence[str], Sequence[str]] = ((), ())  # (student's, teacher's)
    pairs: Sequence[tuple[int, int]] = ()
    decisions: Sequence[tuple[str, str]] = ()  # (topic, decision and reason)


def texts(study: Study) -> dict[str, str]:
    """Returns file name -> content."""
    return {
        "base.py": base_text(study),
        "student.py": model_text(study, study.student, "The student"),
        "teacher.py": model_text(study, study.teacher, "The teacher"),
        "distill.py": distill_text(study),
        "sweep.yaml": sweep_text(study),
    }


def base_text(study: Study) -> str:
    """Returns base.py: data, schedule and runtime."""
    val_interval = max(1, study.iters // 10)
    train = [
        *_loading(study),
        {"type": "RandomResize", "scale": study.scale, "ratio_range": (0.75, 1.5), "keep_ratio": True},
        {"type": "RandomCrop", "crop_size": (study.size, study.size)},
        {"type": "RandomFlip", "prob": 0.5},
    ]
    if study.student.needs_edges or study.teacher.needs_edges:
        train.append({"type": "GenerateEdge", "edge_width": 4})
    train.append({"type": "PackSegInputs"})
    image, *masks = _loading(study)
    test = [image, {"type": "Resize", "scale": study.scale, "keep_ratio": True}, *masks, {"type": "PackSegInputs"}]
    metainfo: PlainConfig = {"classes": study.classes, "palette": [list(color) for color in study.palette]}
    if study.absent:
        metainfo["absent_classes"] = list(study.absent)
    lines = [
        comment_line("Teacher and student share this: data, schedule, runtime. `rdistill init` wrote it, and decided:"),
        *(comment_line(f"- {topic}: {text}") for topic, text in study.decisions),
    ]
    parts = ["\n".join(lines) + "\n", assignment("data_root", study.data_root), assignment("metainfo", metainfo)]
    parts.append("# Every image keeps its aspect: its shorter side becomes the smaller number. Crops are square.\n")
    parts += [assignment("train_pipeline", train)]
    parts += ["# Masks are loaded after Resize: predictions are scored at each image's own size.\n"]
    parts += [assignment("test_pipeline", test)]
    parts.append(_loader_text(study, "train", "train", study.batch, "InfiniteSampler"))
    parts.append(_loader_text(study, "val", "val", study.val_batch, "DefaultSampler"))
    if "test" in study.datasets:
        parts.append(_loader_text(study, "test", "test", study.val_batch, "DefaultSampler"))
    else:
        parts.append("test_dataloader = val_dataloader\n")
    parts.append(
        SCHEDULE.format(iters=study.iters, warm_up=max(1, study.iters // 20), val_interval=val_interval, lr=LR)
    )
    return "".join(parts)


SCHEDULE = """val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

# AdamW with a linear warm-up and a polynomial decay to 0; --iters stretches both.
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr={lr}, weight_decay=0.01), clip_grad=None)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end={warm_up}, by_epoch=False),
    dict(type='PolyLR', eta_min=0.0, power=0.9, begin={warm_up}, end={iters}, by_epoch=False),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters={iters}, val_interval={val_interval})
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=20, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'))

default_scope = 'mmseg'
env_cfg = dict(
    cudnn_benchmark=True, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0), dist_cfg=dict(backend='nccl'))
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='SegLocalVisualizer', vis_backends=vis_backends, name='visualizer')
log_processor = dict(by_epoch=False)
log_level = 'INFO'
load_from = None
resume = False
"""


def _loading(study: Study) -> list[PlainConfig]:
    steps: list[PlainConfig] = [dict(study.loader)]
    if study.label_map:
        pairs = [list(pair) for pair in sorted(study.label_map.items())]
        steps.append({"type": "MapLabels", "label_map": pairs})
    return [*steps, {"type": "LoadAnnotations"}]


def _loader_text(study: Study, name: str, split: str, batch: int, sampler: str) -> str:
    pipeline = "train_pipeline" if name == "train" else "test_pipeline"
    dataset: PlainConfig = {"type": "BaseSegDataset", "data_root": "data_root", "metainfo": "metainfo"}
    dataset.update(study.datasets[split])
    if study.reduce_zero_label:
        dataset["reduce_zero_label"] = True
    dataset["pipeline"] = pipeline
    if name != "train":
        dataset["test_mode"] = True
    loader: PlainConfig = {"batch_size": batch, "num_workers": 0}
    loader["sampler"] = {"type": sampler, "shuffle": name == "train"}
    loader["dataset"] = dataset
    names = {name: name for name in ("data_root", "metainfo", pipeline)}
    return assignment(f"{name}_dataloader", loader, names)


def model_text(study: Study, fitted: Fitted, role: str) -> str:
    """Returns student.py or teacher.py; ``role`` begins its first comment."""
    source = "rdistill's own" if fitted.source == "rdistill" else f"from {fitted.source}"
    lines = [comment_line(f"{role}: {fitted.name}, {source}, with the classes, size and channels of these data.")]
    if fitted.pretrained_files and any(file in repr(fitted.model) for file in fitted.pretrained_files):
        lines.append(comment_line(f"It starts from {fitted.pretrained_files[0]}, which is downloaded once."))
    elif fitted.pretrained_files:
        lines.append(
            comment_line(
                f"It starts from random weights; `init --pretrained` would start it from {fitted.pretrained_files[0]}"
            )
        )
    parts = ["\n".join(lines) + "\n", "_base_ = ['./base.py']\n"]
    if fitted.imports:
        parts.append(assignment("custom_imports", fitted.imports))
    parts.append(assignment("model", fitted.model))
    if fitted.is_transformer:
        parts.append(
            f"optim_wrapper = dict(optimizer=dict(lr={TRANSFORMER_LR}))  # a transformer needs a smaller rate\n"
        )
    return "".join(parts)


def distill_text(study: Study) -> str:
    """Returns distill.py: the `distill` section."""
    checkpoint = study.work / "teacher" / "best.pth"
    student, teacher = study.features
    return f"""# The student under its teacher. `rdistill layers {study.out / "distill.py"}` lists the other features.
_base_ = ['./student.py']
distill = dict(
    teachers=[dict(config={literal(str(study.out / "teacher.py"))}, checkpoint={literal(str(checkpoint))})],
    features=dict(  # the index of a name is its feature index
        student={list(student)!r},
        teacher={list(teacher)!r}),
    # share=1.0: at the logits, the gradient of this loss is as long as that of the student's own loss. The weight
    # that gives this share is measured in the first batch.
    losses=dict(logits=dict(type='KL', tau=2.0, weight=dict(share=1.0))))
"""


def sweep_text(study: Study) -> str:
    """Returns sweep.yaml: the search and its confirmation."""
    lr = TRANSFORMER_LR if study.student.is_transformer else LR
    rate = f"{{type: loguniform, low: {lr / 4:g}, high: {lr * 4:g}}}"
    text = f"""# How much should the teacher's outputs count, and does a feature loss help? All trials, with and without
# the teacher, see the same batches; the best of both then train again on fresh seeds, and are compared.
config: {to_json(str(study.out / "distill.py"))}
space:
  distill.losses.logits.weight.share: {{type: loguniform, low: 0.1, high: 10.0}}
"""
    if study.pairs:
        s, t = study.pairs[-1]
        names = f"{study.features[0][s]} with the teacher's {study.features[1][t]}"
        text += f"""  distill.losses.hidden:  # {names}
    type: choice
    values: [null, {{type: CWD, pair: [{s}, {t}], weight: {{share: 1.0}}}}]
"""
    return f"""{text}  optim_wrapper.optimizer.lr: {rate}
search: {{type: auto, num_trials: 8, seed: 0}}
baseline:  # the student alone is tuned too
  search:
    optim_wrapper.optimizer.lr: {rate}
confirm: {{top: 1, seeds: [1, 2, 3]}}
seed: 0
"""
