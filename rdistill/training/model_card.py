"""Writes ``model_card.md``: what a student is, how well it scores on which evidence, and how to train it again."""

from __future__ import annotations

import html
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mmengine.config import Config

from rdistill.config.distill_spec import LossSpec
from rdistill.config.load import LoadedConfig
from rdistill.config.plain_config import header, replace_header
from rdistill.config.walk import leaves
from rdistill.core.errors import one_line
from rdistill.core.files import read_json, read_text, write_whole
from rdistill.core.one_class import trained_of, when_trained
from rdistill.core.words import counted, the_first
from rdistill.data.splits import data_splits
from rdistill.data.unlabeled import describe_unlabeled
from rdistill.schemas.run import RunMetrics
from rdistill.schemas.summary import Arm, Confirmed, Environment, Summary
from rdistill.schemas.trial import TrialEntry, TrialFile

CARD = "model_card.md"
_PACKAGES = (
    "torch",
    "onedl-mmengine",
    "mmengine",
    "onedl-mmcv",
    "mmcv",
    "onedl-mmsegmentation",
    "mmsegmentation",
    "ray",
)


def write_run_card(run: LoadedConfig, work_dir: Path, metrics: RunMetrics) -> None:
    """Writes the card of one run, beside its ``student.pth``.

    Args:
        run: the user's config of the run.
        work_dir: the run's work dir.
        metrics: the content of its ``metrics.json``.
    """
    figures = [
        ["this student", _points(metrics.get("mIoU")), f"best validation, iteration {metrics.get('best_iter')}"],
        *([["teacher", _points(metrics["teacher_mIoU"]), "same images"]] if metrics.get("teacher_mIoU") else []),
    ]
    evidence = [
        "One run of one seed: another seed may differ by several points. The score is that of the best of all "
        "validations on the same images, so it is a little too high. No baseline was trained beside it: "
        "`rdistill sweep` does.",
        "",
        *_table(["", "mIoU, %", ""], figures),
        "",
        *_table(["class", "IoU, %"], [[name, _points(iou)] for name, iou in (metrics.get("IoU") or {}).items()]),
    ]
    commands = [f"rdistill train {work_dir / 'config.py'} --work-dir NEW_DIR"]
    _write(work_dir, _card(run, "student", metrics.get("seed"), evidence, commands, metrics.get("weights") or {}))


def hand_over_sweep(work_dir: Path, winner: Path) -> None:
    """Writes the winner's card beside ``best.pth``, and its scores at the top of ``best.py``.

    Args:
        work_dir: the sweep's work dir, with ``best.py``, ``study.json`` and, if there is one, ``summary.json``.
        winner: the folder of the winning trial, with ``trial.json`` and ``trial.py``.
    """
    record: TrialFile = _json(winner / "trial.json")
    summary: Summary = _json(work_dir / "summary.json")
    best = max(record["history"], key=lambda entry: entry["mIoU"])
    run = LoadedConfig.of(Config.fromfile(str(winner / "trial.py")))
    evidence = _sweep_evidence(record, best, summary, work_dir)
    command = (summary.get("environment") or Environment()).get("command")
    commands = [
        f"rdistill train {winner / 'trial.py'} --work-dir NEW_DIR   # this student, again",
        f"{command or 'rdistill sweep SWEEP.yaml'}   # the whole study",
    ]
    _write(work_dir, _card(run, "best", record["seed"], evidence, commands, best.get("weights") or {}))
    scores = [
        f"mIoU {best['mIoU']:.2f} % on the validation images, at iteration {best['iter']} of seed {record['seed']}."
    ]
    if summary.get("verdict"):
        scores.append(f"Verdict of the sweep: {summary['verdict']}")
    repeat = [f"Trial {record['id']} of a sweep by rdistill; {CARD} beside this file says more."]
    file = work_dir / "best.py"
    write_whole(
        file, replace_header(read_text(file), header("best.py", "best.pth", run.cfg.model, _wrapped(scores), repeat))
    )


def _sweep_evidence(record: TrialFile, best: TrialEntry, summary: Summary, work_dir: Path) -> list[str]:
    """The evidence of a sweep for its winner: the scores of the search, and of the confirmation if there is one."""
    baseline: TrialFile = _json(work_dir / "trials" / "baseline" / "trial.json")
    baseline_best = max((entry["mIoU"] for entry in baseline.get("history") or []), default=None)
    lines = [_text(summary["verdict"]), ""] if summary.get("verdict") else []
    figures = [
        ["this student", _points(best["mIoU"]), f"best validation of trial {record['id']}, iteration {best['iter']}"],
        ["student alone, first baseline", _points(baseline_best), "best validation of one seed"],
        ["teacher", _points(record.get("teacher_mIoU")), "same images"],
    ]
    lines += _table(["searched", "mIoU, %", ""], [row for row in figures if row[1] != "-"])
    lines += ["", *_confirmation(summary.get("confirmed") or Confirmed())]
    reasons = (summary.get("why") or {}).get(record.get("of") or "")
    if reasons and reasons.get("sentences"):
        lines += ["", "Why it gains, or does not (means over its confirmation runs):", ""]
        lines += [f"- {_text(sentence['text'])}" for sentence in reasons["sentences"]]
    classes = [[name, _points(iou)] for name, iou in (best.get("IoU") or {}).items()]
    return [*lines, "", *_table(["class", "IoU, %"], classes)]


def _confirmation(confirmed: Confirmed) -> list[str]:
    """The scores of the confirmation runs; for an empty one, what its absence means."""
    rows = []
    baseline_arm = confirmed.get("baseline")
    for arm in [*([baseline_arm] if baseline_arm else []), *(confirmed.get("configurations") or [])]:
        trained = when_trained(arm)
        spread = _points(trained["mean"]) + (f" ± {trained['sd']:.2f}" if trained["sd"] is not None else "")
        rows.append([arm["id"], trained_of(arm), spread, _interval(arm)])
    if not rows:
        return [
            "The figures are the search's: one seed, and the best of many trials. They are not confirmed on fresh "
            "seeds (`confirm` in the sweep file does that), so the gain is likely smaller."
        ]
    scored_files = confirmed.get("of", "pytorch")
    exported = "" if scored_files == "pytorch" else f"; scores of the {scored_files} files"
    lines = [
        "Trained again on fresh seeds (mean ± standard deviation; paired difference to the baseline with its 95 % "
        f"interval{exported}):",
        "",
        *_table(["confirmed", "seeds", "mIoU, %", "difference"], rows),
    ]
    longer = []
    for arm in confirmed.get("configurations") or []:
        if cost := arm.get("equal_cost"):
            longer.append([arm["id"], str(cost["iterations"]), _points(when_trained(cost)["mean"]), _interval(cost)])
    if longer:
        lines += ["", "The same against the student alone at equal cost, trained for as many seconds:", ""]
        lines += _table(["confirmed", "iterations of the student alone", "its mIoU, %", "difference"], longer)
    return lines


def _card(
    run: LoadedConfig,
    name: str,
    seed: Any,
    evidence: Sequence[str],
    commands: Sequence[str],
    weights: Mapping[str, float],
) -> list[str]:
    """The card as lines of Markdown.

    ``name`` is the name of the files, ``student`` or ``best``; ``weights`` has the measured weights by the loss's name.
    """
    return [
        f"# Model card: {_text(run.cfg.model.type)}, {_text(_backbone(run.cfg.model))}",
        "",
        f"A semantic segmentation model for MMSegmentation: `{name}.py` (config) and `{name}.pth` (weights), made by "
        "rdistill. It takes an image and gives the class of each pixel.",
        "",
        "## Figures",
        *evidence,
        "",
        "## Data",
        *_data(run),
        "",
        "## Training",
        *_training(run, seed, weights),
        "",
        "## Intended use and limits",
        "- Images like those it was trained on: the same kind of camera, subject and preparation.",
        "- The figures hold for the images named above and say nothing about others: measure before you rely on it.",
        "- It marks every pixel with one of its classes, also where none of them is right; it gives no confidence.",
        "- Not a medical device; no person's health may depend on it without validation and approval.",
        "- _Add: who should use it, for what, and what it must not be used for._",
        "",
        "## Use",
        "```bash",
        f"rdistill predict {name}.py {name}.pth IMAGE... --out predictions",
        f"rdistill export {name}.py {name}.pth {name}.onnx",
        "```",
        f"Without rdistill: `mmseg.apis.init_model('{name}.py', '{name}.pth', device='cpu')`.",
        "",
        "## Make it again",
        *_commands(commands),
        f"Made with Python {platform.python_version()}, {', '.join(_versions())}.",
        "",
        "## Licence",
        "_Add: the licence of these weights. It may be bound by those of the images and of the teacher._",
    ]


def _data(run: LoadedConfig) -> Iterator[str]:
    cfg = run.cfg
    for split in ("train", "val", "test"):
        loader = cfg.get(f"{split}_dataloader")
        if loader is None or (split == "test" and loader == cfg.get("val_dataloader")):
            continue
        word = {"train": "Training", "val": "Validation (selects)", "test": "Test"}[split]
        for (_, dataset), files in zip(leaves(loader.dataset), data_splits(cfg, (split,)), strict=True):
            images = (dataset.get("data_prefix") or {}).get("img_path") or dataset.get("ann_file") or ""
            count = f", {counted(len(files.entries), 'image')}" if files.entries else ""
            yield f"- {word}: {_code(Path(str(dataset.get('data_root') or ''), str(images)))}{count}"
    if run.distill is not None and (added := describe_unlabeled(run)):
        hard, soft = run.distill.labels == "teacher", bool(run.distill.losses)
        use = "labelled by the teacher" if hard else "for distillation alone"
        use = "for distillation, and labelled by the teacher" if hard and soft else use
        yield f"- Without masks, {use}: {_code(Path(cfg.distill.unlabeled.img_dir))}, {added}"
    classes = (dataset.get("metainfo") or {}).get("classes")
    if classes:
        yield f"- {len(classes)} classes: {', '.join(map(_text, classes))}"
    yield "- _Add: where the images come from, and what their licence allows._"


def _training(run: LoadedConfig, seed: Any, weights: Mapping[str, float]) -> Iterator[str]:
    cfg, spec = run.cfg, run.distill
    optimizer = cfg.optim_wrapper.get("optimizer") or {}
    length = cfg.train_cfg.get("max_iters")
    duration = counted(length, "iteration") if length else counted(cfg.train_cfg.get("max_epochs"), "epoch")
    batch = cfg.train_dataloader.batch_size
    kind, rate = _text(optimizer.get("type")), _text(optimizer.get("lr"))
    yield f"- {duration}, {counted(batch, 'image')} a step, {kind} at {rate}, seed {seed}"
    if spec is None:
        yield "- Alone, without a teacher."
        return
    for teacher in spec.teachers:
        model = _code(teacher.config) if teacher.config else f"a teacher of kind {teacher.type}"
        with_weights = f"{_code(teacher.checkpoint)} of {model}" if teacher.checkpoint else model
        yield f"- Teacher: {'itself' if teacher.follows_student else with_weights}"
    if spec.store is not None:
        yield f"- {counted(spec.store.views, 'augmented view')} of each image, the same for every seed"
    for name, loss in spec.losses.items():
        compared = "logits" if loss.pair is None else " and ".join(
            f"student {_code(spec.features.student[s])} with teacher "
            f"{_code(spec.teacher_features(int(loss.teacher))[t])}"
            for s, t in loss.pairs
        )  # fmt: skip
        params = "".join(f", {_text(key)} {_text(value)}" for key, value in loss.params.items())
        yield f"- Loss {_code(name)}: {loss.type} x {_weight(name, loss, weights)} on {compared}{params}"
    yield f"- The student's own losses x {spec.task_weight:g}"


def _weight(name: str, loss: LossSpec, weights: Mapping[str, float]) -> str:
    """The weight of a loss as text: ``3``, or ``12.3 (so that its gradient is 0.5 of the task's, ...)``."""
    if loss.share is None:
        return f"{loss.effective_weight:g}"
    measured = f"{weights[name]:.4g}" if name in weights else "a weight that was not measured"
    repeated = f", again every {loss.share.every} iterations" if loss.share.every else ""
    batches = the_first(loss.share.batches, "batch")
    return f"{measured} (so that its gradient is {loss.share.value:g} of the task's, by {batches}{repeated})"


def _backbone(model: Mapping[str, Any]) -> str:
    backbone = model.get("backbone") or {}
    return str(backbone.get("type", "")) + (f" {backbone['depth']}" if "depth" in backbone else "")


def _versions() -> Iterator[str]:
    from rdistill import __version__

    yield f"rdistill {__version__}"
    for name in _PACKAGES:
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            continue


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [[_text(cell) for cell in line] for line in (head, *rows)]
    return ["| " + " | ".join(line) + " |" for line in (lines[0], ["---"] * len(head), *lines[1:])]


def _text(value: Any) -> str:
    """Escapes a name so that it is shown literally, on one line, and not taken for HTML or Markdown."""
    line = html.escape(one_line(value), quote=False)
    return re.sub(r"[\\`*\[\]|~]|(?<!\w)_|_(?!\w)", r"\\\g<0>", line)


def _code(value: Any) -> str:
    """A name as inline code, between more backticks than the name contains."""
    line = one_line(value)
    ticks = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    return f"{ticks} {line} {ticks}" if "`" in line else f"`{line}`"


def _commands(lines: Sequence[str]) -> list[str]:
    """A code block of commands, with a fence that is longer than any row of backticks in it."""
    lines = [" ".join(line.splitlines()) for line in lines]
    fence = "`" * max(3, 1 + max((len(ticks) for line in lines for ticks in re.findall("`+", line)), default=0))
    return [f"{fence}bash", *lines, fence]


def _wrapped(lines: Sequence[str]) -> list[str]:
    import textwrap

    return [part for line in lines for part in textwrap.wrap(line, 98)]


def _points(value: Any) -> str:
    return format(value, ".2f") if isinstance(value, (int, float)) else "-"


def _interval(arm: Arm) -> str:
    gap = arm.get("difference")
    return f"{gap['mean']:+.2f} ({gap['low']:+.2f} to {gap['high']:+.2f})" if gap else "-"


def _json(file: Path) -> Any:
    """The content of a JSON file; an empty mapping if the file does not exist."""
    return read_json(file) if file.is_file() else {}


def _write(folder: Path, lines: Sequence[str]) -> None:
    write_whole(folder / CARD, "\n".join(lines) + "\n")
