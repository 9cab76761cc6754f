"""Builds the page of a folder: its sections and their content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from rdistill.core.errors import UserError
from rdistill.report import boards, curves, equal_cost, facts, losses, pairs, parameters, pareto, repeat, scores, study
from rdistill.report.card import verdict_card
from rdistill.report.facts import Fact
from rdistill.report.headroom import headroom_page, headroom_section
from rdistill.report.load import IMAGES_FOLDER, Run, Sweep, load, mapping, number
from rdistill.report.models import models_table
from rdistill.report.page import Page, Panel, Section, Strip, image_uri
from rdistill.report.plot import Plot
from rdistill.report.standing import next_steps, standing
from rdistill.report.text import Column, Table, cell, duration, points, show
from rdistill.report.why import why_section
from rdistill.schemas.pictures import ChosenImage

PANELS = ("image", "truth", "teacher", "baseline", "best", "difference")  # the panels of a strip, in order


def page_of(folder: Path) -> Page:
    """The page of a folder of a sweep, of a single run, or of a headroom.

    Raises:
        UserError: the folder holds none of them.
    """
    if (page := headroom_page(folder)) is not None:
        return page
    loaded = load(folder)
    return run_page(loaded) if isinstance(loaded, Run) else sweep_page(loaded)


def sweep_page(sweep: Sweep) -> Page:
    """The report of a sweep, which may still be running."""
    differences = scores.difference_rows(sweep)
    sections = [
        _confirmed_section(sweep, differences),
        headroom_section(mapping(sweep.summary.get("headroom"))),
        _leaderboard_section(sweep),
        Section("learning", "Learning", plots=_existing(curves.learning_curves(sweep), scores.per_class(sweep))),
        _search_section(sweep),
        Section("features", "Feature pairs", plots=_existing(*pairs.heat_maps(sweep))),
        Section("losses", "Losses", plots=_existing(losses.loss_sizes(sweep))),
        images_section(sweep),
        why_section(sweep),
        Section("cost", "Time and cost", tables=[repeat.cost(sweep)]),
        Section(
            "repeat",
            "Repeat it",
            tables=[repeat.environment(sweep)],
            commands=repeat.commands(sweep),
            listing=("The sweep file", _yaml(sweep.spec)),
        ),
    ]
    warnings = [str(line) for line in sweep.summary.get("warnings") or [] if line]
    verdict, models = facts.verdict(sweep), models_table(sweep)
    return Page(
        sweep.name,
        "Distillation sweep",
        verdict,
        facts.headline(sweep),
        sections,
        warnings,
        standing=standing(sweep),
        steps=next_steps(sweep),
        models=models,
        card=verdict_card(sweep, verdict, differences, models),
    )


def _confirmed_section(sweep: Sweep, differences: list[scores.DifferenceRow]) -> Section:
    tables = (
        boards.confirmed_table(sweep),
        boards.pairwise_table(sweep),
        equal_cost.equal_cost_table(sweep),
        equal_cost.seconds_table(sweep),
        equal_cost.uncertainty_table(sweep),
        boards.test_split_table(sweep),
    )
    return Section(
        "confirmed",
        "Confirmed",
        (
            "The best configurations and the baseline again, on seeds that the search has not seen. Each difference is "
            "between runs of the same seed: same weights at the start, same data in the same order."
        ),
        tables=[table for table in tables if table is not None],
        notes=equal_cost.looks_note(sweep),
        plots=_existing(scores.forest(differences)),
    )


def _leaderboard_section(sweep: Sweep) -> Section:
    notes = list(sweep.notes)
    if sweep.chosen is not sweep.best and sweep.chosen is not None and sweep.best is not None:
        notes.append(
            f"{sweep.best.id} was highest here; on fresh seeds it was {sweep.chosen.id}, the best of this page."
        )
    return Section(
        "searched",
        "Leaderboard",
        (
            "Each trial once, on the same seed and data: differences of this size also come by chance. "
            "It says what to confirm, not what is better."
        ),
        tables=[boards.leaderboard(sweep)] if sweep.records else [],
        plots=pareto.fronts(sweep),
        notes=notes,
    )


def _search_section(sweep: Sweep) -> Section:
    as_study = study.study_of(sweep)
    weight = study.importance(as_study)  # a plot, or the reason why there is none
    return Section(
        "search",
        "What mattered",
        plots=_existing(study.history(sweep, as_study), parameters.parallel(sweep), weight),
        small_plots=parameters.slices(sweep),
        small_title="Each parameter alone",
        small_intro=(
            "A point is a trial's best mIoU: a dot ran to its end or runs, a cross was stopped early, the star "
            "is the best."
        ),
        notes=[weight] if isinstance(weight, str) else [],
    )


def run_page(run: Run) -> Page:
    """A short page of one `rdistill train`."""
    metrics = run.metrics
    classes = [[cell(name), cell(number(value), ".2f")] for name, value in mapping(metrics.get("IoU")).items()]
    tables = [Table("IoU of each class at the best iteration, %", [Column("class"), Column("IoU", True)], classes)]
    teacher = number(metrics.get("teacher_mIoU"))
    shown = [
        Fact("best mIoU", points(number(metrics.get("mIoU"))), f"iteration {show(metrics.get('best_iter'))}", "best"),
        *([Fact("teacher", points(teacher), "", "teacher")] if teacher is not None else []),
        Fact("iterations", show(metrics.get("iter")), f"seed {show(metrics.get('seed'))}"),
        Fact("time", duration(number(metrics.get("seconds")))),
    ]
    if metrics:
        verdict = (
            f"{points(number(metrics.get('mIoU')))} mIoU on validation data, one seed. "
            "A sweep compares it with a student alone."
        )
    else:
        reason = "its metrics.json is damaged" if run.notes else "there is no metrics.json"
        verdict, shown = f"This run has not ended yet: {reason}.", shown[-1:] if run.validations else []
    if not metrics and not run.validations and not run.steps:
        raise UserError(*run.notes, f"{run.folder}: has no scores yet; wait for its first validation")
    sections = [
        Section("learning", "Learning", plots=curves.run_curves(run)),
        Section("classes", "Classes", tables=tables if classes else []),
        Section(
            "repeat",
            "Repeat it",
            commands=[
                (
                    "this run",
                    repeat.train_command(run.folder / "config.py", f"{run.folder}-again"),
                )
            ],
        ),
    ]
    return Page(run.folder.resolve().name, "Training run", verdict, shown, sections, run.notes)


def images_section(sweep: Sweep) -> Section:
    """The worst, the median and the best validation image of the best student, with the masks of all models."""
    content, folder = sweep.images, sweep.folder / IMAGES_FOLDER
    section = Section("images", "Images", plots=_existing(scores.per_image(content)))
    ids = {key: str(content.get(key) or key) for key in ("best", "baseline")}
    for chosen in (mapping(entry) for entry in content.get("chosen") or []):
        panels = [panel for kind in PANELS if (panel := _panel(folder, kind, chosen, ids)) is not None]
        if panels:
            section.strips.append(Strip(f"{str(chosen.get('which', '')).capitalize()}: {chosen.get('name')}", panels))
    if section.strips:
        section.intro = (
            f"The validation images on which {ids['best']} is worst, in the middle and best, by mIoU of the image. "
            "In the last image: orange, wrong in the best alone; blue, wrong in the baseline alone; "
            "grey, wrong in both."
        )
    elif reason := content.get("reason"):
        section.notes.append(f"No images: {reason}")
    elif not sweep.running:
        section.notes.append("No images are recorded: a sweep draws them at its end.")
    return section


def _panel(folder: Path, kind: str, chosen: ChosenImage, ids: dict[str, str]) -> Panel | None:
    name = mapping(chosen.get("files")).get(kind)
    # It must be a file name and not a path, so that no file outside of the folder gets into the page.
    if not isinstance(name, str) or Path(name).name != name or not (folder / name).is_file():
        return None
    label = {"image": "image", "truth": "ground truth", "difference": "errors"}.get(kind, ids.get(kind, kind))
    score = number(mapping(chosen.get("IoU")).get(kind))
    note = f"mIoU {score:.1f}" if score is not None else ""
    try:
        source = image_uri(folder / name)
    except OSError:
        return None
    return Panel(label, f"{label} of {chosen.get('name')}" + (f", {note}" if note else ""), source, note)


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True) if value else ""


def _existing(*plots: Any) -> list[Plot]:
    return [plot for plot in plots if isinstance(plot, Plot)]
