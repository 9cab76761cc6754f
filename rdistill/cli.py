"""The commands. Only this module prints and exits: status 0 for success, 2 for a user's mistake, 1 otherwise."""

from __future__ import annotations

import errno
import io
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from rdistill._compat.changed import LibraryChangedError
from rdistill._compat.typer import AnyError, ShowsHelp
from rdistill.core.environment import keep_to_the_work_dir
from rdistill.core.errors import RunError, UserError, printable, problem_of_path
from rdistill.core.files import to_json
from rdistill.core.stopping import Stopped, StopRequest, on_signals, terminated_like_ctrl_c
from rdistill.core.storage import is_uri
from rdistill.core.validation import MAX_SEED
from rdistill.core.words import counted
from rdistill.core.work_dir import require_work_dir
from rdistill.flags import (
    Address,
    BatchFlags,
    DataFlags,
    LoadFlags,
    ModelFlags,
    RunFlags,
    SweepFlags,
    TaskFlags,
    TrustCheckpoint,
    WorkerFlags,
    with_flags,
)
from rdistill.training.console import OneLineConsole
from rdistill.usage import Command, usage_line

if TYPE_CHECKING:
    from mmengine.config import Config

    from rdistill.checks.run import Report
    from rdistill.handover.reduce import FineTune
    from rdistill.schemas.exported import ExportRecord
    from rdistill.schemas.mappings import Arguments
    from rdistill.schemas.run import Scores

MAX_ERRORS = 10  # lines
DISK_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE)  # errors that are no mistake of the user
INTERRUPTED = "interrupted; a run or a sweep continues with --resume"

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Which way of distilling this teacher into this student works best, and by how much?

    rdistill data synthetic data/synthetic           # draw images to try the commands on

    rdistill init --data DIR                         # or write the configs and the sweep file for your own images

    rdistill train configs/teacher/NAME.py           # train a teacher (or, with a student's config, a student alone)

    rdistill train configs/distill/NAME.py           # train a student under its teacher

    rdistill sweep sweeps/coef.yaml --data-root DIR  # train many students and rank them

    rdistill report work_dirs/sweeps/coef            # one HTML page: which one won, by how much, and why
    """,
)
data_app = typer.Typer(no_args_is_help=True, help="Generate images to train on.")
app.add_typer(data_app, name="data")
store_app = typer.Typer(no_args_is_help=True, help="Compute, inspect and remove the stored outputs of teachers.")
app.add_typer(store_app, name="store")


@contextmanager
def _resumable(request: StopRequest) -> Iterator[None]:
    """Prints how to resume when Ctrl-C or SIGTERM ends the command within this context."""
    terminated = 128 + signal.SIGTERM
    try:
        yield
    except KeyboardInterrupt:
        _print_line(INTERRUPTED)
        raise SystemExit(terminated if request.signum == signal.SIGTERM else 128 + signal.SIGINT) from None
    except SystemExit as ended:
        if ended.code == terminated:
            _print_line(INTERRUPTED)
        raise


def _print_version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        print(f"rdistill {version('rdistill')}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


Config_ = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="An mmseg config file, with or without a `distill` section.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only the result and errors.")]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object at the end; errors still go to standard error.")
]
Checkpoint = Annotated[
    Path,
    typer.Argument(metavar="CHECKPOINT", help="student.pth, best.pth, or any mmseg checkpoint of the config's model."),
]
Open = Annotated[bool, typer.Option("--open", help="Open the page in the browser.")]
Png = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Also write each figure as a PNG file into this folder; needs Chromium."),
]
WorkDir = Annotated[
    str | None,
    typer.Option(
        metavar="DIR|URI",
        help="The folder, or a URI such as s3://bucket/run, that everything is written to; by default it is named "
        "after the file, below work_dirs/.",
    ),
]


@app.command(cls=Command)
def init(
    data: Annotated[Path, typer.Option(metavar="DIR", help="The folder of images and masks.")],
    student: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The student: a model that `rdistill models` lists, or a config file."),
    ] = None,
    teacher: Annotated[str | None, typer.Option(metavar="NAME", help="The teacher, in the same way.")] = None,
    size: Annotated[
        int | None,
        typer.Option(help="Pixels of the images' shorter side; by default as many as this machine can train with."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="The folder to write to; by default it is named after --data, below work_dirs/init/."
        ),
    ] = None,
    classes: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="Names of the classes, in the order of their indices.")
    ] = None,
    colors: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="For masks in colours: a file with a line `NAME R G B` for each class."),
    ] = None,
    pretrained: Annotated[
        bool,
        typer.Option(
            "--pretrained", help="Start from the pretrained weights of mmseg's model zoo, which are downloaded once."
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
) -> None:
    """Look at a folder of images and masks, and write the files of a study: student, teacher, distillation, sweep.

    Recognises these layouts: PaddleSeg's list files, Cityscapes, Pascal VOC, ADE20K, COCO, and a folder of images
    with a folder of masks. Prints what it decided and why, and the three commands to run next. Nothing in DIR is
    changed or copied.
    """
    from rdistill.init.run import InitOptions, write_study

    names = tuple(name.strip() for name in classes.split(",")) if classes is not None else None
    result = write_study(InitOptions(data, student, teacher, size, out, names, colors, pretrained, force))
    console = OneLineConsole(highlight=False, soft_wrap=True, markup=False)
    for topic, text in result.decisions:
        console.print(f"{topic:<9} {text}")
    for note in result.notes:
        console.print(f"note      {note}")
    for file in result.files:
        console.print(f"wrote     {file}")
    console.print("run next")
    for command in result.commands:
        console.print(f"  {command}")


@app.command(cls=Command)
def models(
    pattern: Annotated[
        str | None, typer.Argument(metavar="[TEXT]", help="List only the names that contain this text.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="Measure again with the installed packages; this takes minutes for all models."),
    ] = False,
) -> None:
    """List the models that `init` takes as student or teacher with their parameters and FLOPs, the smallest first.

    These are the models of the installed mmseg's configs, and some models of rdistill.
    """
    from rdistill.init.list_models import as_plain, matching_models, table_lines

    matches = matching_models(pattern, measured_now=measure)
    if as_json:
        print(to_json(as_plain(matches)))
        return
    console = OneLineConsole(highlight=False, soft_wrap=True, markup=False)
    for line in table_lines(matches, measured_now=measure):
        console.print(line)


@app.command(cls=Command)
@with_flags
def train(
    config: Config_,
    *,
    work_dir: WorkDir = None,
    run: RunFlags,
    quiet: Quiet = False,
    as_json: AsJson = False,
    loading: LoadFlags,
) -> None:
    """Train one model: a teacher, a student alone, or, with a `distill` section, a student under its teacher.

    Writes these files to the work dir: metrics.json; student.pth with student.py (the weights of the best iteration,
    which plain mmseg can load); best.pth; last.pth (the checkpoint that --resume continues from); config.py (the whole
    config); and mmengine's log.
    """
    from rdistill import api

    with on_signals() as stop, _resumable(stop):
        metrics = api.train(
            config,
            work_dir,
            overrides=loading.overrides(),
            stop=stop,
            quiet=quiet or as_json,
            **run.as_arguments(),
            **loading.as_arguments(),
        )
    work_dir = work_dir or f"work_dirs/{config.stem}"
    if as_json:
        print(to_json({**metrics, "work_dir": str(work_dir)}))
    elif quiet:
        print(f"mIoU {metrics['mIoU']:.2f} at iteration {metrics['best_iter']}: {work_dir}/student.pth")


@app.command(name="eval", cls=Command)
@with_flags
def evaluate(
    config: Annotated[
        Path,
        typer.Argument(metavar="CONFIG|OUT.onnx", help="An mmseg config file; or only a file that `export` wrote."),
    ],
    checkpoint: Annotated[
        Path | None,
        typer.Argument(
            metavar="CHECKPOINT|OUT.onnx",
            help="student.pth, best.pth, any mmseg checkpoint of the config's model, or a file that `export` wrote.",
            show_default=False,
        ),
    ] = None,
    *,
    split: Annotated[str, typer.Option(metavar="val|test", help="The split to score on.")] = "val",
    runtime: Annotated[
        str | None,
        typer.Option(
            metavar="onnxruntime|openvino",
            help="The runtime of OUT.onnx: onnxruntime by default; openvino is scored in addition to onnxruntime.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
    loading: DataFlags,
    trust_checkpoint: TrustCheckpoint = False,
) -> None:
    """Score a checkpoint of the config's model: mIoU, pixel accuracy and the IoU of every class, in percent.

    The files of the split are checked first, like in `check`. An ONNX file is scored by running it, and the PyTorch
    student that it was exported from is scored for comparison: `export` has written the student's config and checkpoint
    to OUT.onnx.json, next to the file.
    """
    from rdistill import api
    from rdistill.schemas.exported import RUNTIMES

    if split not in ("val", "test"):
        raise UserError(f"--split: must be val or test, got {split!r}")
    if runtime not in (None, *RUNTIMES):
        raise UserError(f"--runtime: must be {' or '.join(RUNTIMES)}, got {runtime!r}")
    if (checkpoint or config).suffix == ".onnx":
        own_config = None if checkpoint is None else config
        options = {"split": split, "trust_checkpoint": trust_checkpoint, "runtime": runtime or "onnxruntime"}
        _evaluate_file(own_config, checkpoint or config, options, as_json=as_json, flags=loading)
        return
    if runtime is not None:
        raise UserError(
            f"--runtime: is only for a file that `export` wrote, and {checkpoint or config} is none; leave it out"
        )
    if checkpoint is None:
        raise UserError("CHECKPOINT: is required; see `rdistill eval --help`")
    cfg = _load(config, loading, with_teachers=False)
    metrics = api.evaluate(cfg, checkpoint, split=split, trust_checkpoint=trust_checkpoint, noted=_print_note)
    if as_json:
        print(to_json(metrics))
        return
    _print_scores(metrics, cfg, split)


def _evaluate_file(config: Path | None, file: Path, options: Arguments, *, as_json: bool, flags: DataFlags) -> None:
    """Runs `rdistill eval` for an exported file.

    Args:
        config: overrides the config that the file's record names.
        file: the ONNX file.
        options: keyword arguments of :func:`rdistill.handover.score.score_file`.
        as_json: prints JSON instead of lines.
        flags: what the command line changes in the config.
    """
    from rdistill.config.load import load_config
    from rdistill.config.shortcuts import Shortcuts
    from rdistill.handover.onnx_file import read_record, require_packages
    from rdistill.handover.score import as_plain, lines, score_file

    require_packages(("onnxruntime",), "eval of an ONNX file")
    record = read_record(file)
    if config is None and record is None:
        raise UserError(f"{file}: there is no {file.name}.json next to it that names its config; pass CONFIG before it")
    exported_with = record or {"overrides": {}, "shortcuts": {}}
    changed = {name: value for name, value in flags.as_arguments().items() if value is not None}
    cfg = load_config(
        config or exported_with["config"],
        {**exported_with["overrides"], **flags.overrides()},
        Shortcuts(**{**exported_with["shortcuts"], **changed}),
        with_teachers=False,
    )
    _check_splits(cfg, (options["split"],))
    checkpoint = None if record is None else record["checkpoint"]
    if checkpoint is not None and not Path(checkpoint).is_file():
        _print_note(f"{checkpoint}: no longer exists, so the PyTorch student is not scored for comparison")
        checkpoint = None
    scored = score_file(cfg, file, checkpoint, **options)
    if as_json:
        print(to_json(as_plain(scored)))
        return
    _print_scores(scored.scores, cfg, options["split"])
    for topic, line in lines(scored):
        print(f"{topic:<9} {line}")


def _check_splits(cfg: Config, splits: Sequence[str]) -> None:
    """Checks the files that scoring on some splits, or calibration with them, reads; prints the notes."""
    from rdistill.training.run import check_evaluation

    for split in splits:
        for note in check_evaluation(cfg, split):
            _print_note(note)


def _print_scores(metrics: Scores, cfg: Config, split: str) -> None:
    from rdistill.config.walk import leaf_datasets

    console = OneLineConsole(highlight=False, soft_wrap=True, markup=False)
    data_root = ", ".join(
        dict.fromkeys(str(leaf.get("data_root")) for leaf in leaf_datasets(cfg, f"{split}_dataloader"))
    )
    console.print(f"mIoU {metrics['mIoU']:.2f}  aAcc {metrics['aAcc']:.2f}  ({split} split of {data_root})")
    for name, value in metrics["IoU"].items():
        console.print(f"  {name:<20} {'does not occur' if value is None else format(value, '6.2f')}")


def _load(config: Path, flags: ModelFlags, **parts: bool) -> Config:
    """Loads a config with the command line's changes; ``parts`` go to :func:`rdistill.config.load.load_config`."""
    from rdistill.config.load import load_config
    from rdistill.config.shortcuts import Shortcuts

    return load_config(config, flags.overrides(), Shortcuts(**flags.as_arguments()), **parts)


def _print_note(line: str) -> None:
    """Prints a note to standard error, because standard output may have to be one JSON object."""
    print(f"note      {line}", file=sys.stderr)


@app.command(cls=Command)
@with_flags
def sweep(
    sweep_file: Annotated[
        Path, typer.Argument(metavar="SWEEP.yaml", help="The sweep file: a config, a search space and a searcher.")
    ],
    *,
    work_dir: WorkDir = None,
    run: SweepFlags,
    quiet: Quiet = False,
    as_json: AsJson = False,
    loading: LoadFlags,
) -> None:
    """Train many students, always with a baseline that has no teacher, and rank them.

    Writes these files to the work dir: results.csv (one row for each trial); best.py and best.pth (the winner, which
    plain mmseg can load); and a folder for each trial with a trial.py, with which `rdistill train` repeats the trial.
    """
    from rdistill import api

    with terminated_like_ctrl_c() as stop, _resumable(stop):
        result = api.sweep(
            sweep_file,
            work_dir,
            overrides=loading.overrides(),
            quiet=quiet or as_json,
            **run.as_arguments(),
            **loading.as_arguments(),
        )
    if as_json:
        print(to_json(result.as_dict()))
    elif quiet:
        print(f"best {result.best.id}: mIoU {result.best.best['mIoU']:.2f}: {result.work_dir}/best.pth")
        print(f"verdict {result.summary['verdict']}")


@app.command(cls=Command)
@with_flags
def headroom(
    config: Config_,
    *,
    work_dir: WorkDir = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="SEED,...", help="Seeds of the trainings, at least two; by default 0,1.")
    ] = None,
    iters: Annotated[
        int | None, typer.Option(help="Iterations of the short trainings; by default a quarter of the config's.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the trainings in --work-dir.")] = False,
    group: WorkerFlags,
    address: Address = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    loading: BatchFlags,
    trust_checkpoint: TrustCheckpoint = False,
) -> None:
    """Estimate how much a student can gain from its teacher, before hours are spent on a sweep.

    CONFIG has a `distill` section. The command trains the student for a short time in five ways: alone, alone for twice
    as long, with half of the labels, with the teacher's predictions as labels, and distilled as CONFIG says. It prints
    what limits the student, how many seeds a sweep needs, what the sweep costs, and what to do first.
    """
    from rdistill import api

    with on_signals() as stop, _resumable(stop):
        result = api.headroom(
            config,
            work_dir,
            iters=iters,
            seeds=_seed_list(seeds),
            overrides=loading.overrides(),
            resume=resume,
            address=address,
            stop=stop,
            trust_checkpoint=trust_checkpoint,
            quiet=quiet or as_json,
            **group.as_arguments(),
            **loading.as_arguments(),
        )
    if as_json:
        print(to_json(result))
    elif quiet:
        print(result["recommendation"])


def _seed_list(text: str | None) -> list[int] | None:
    """``'0,1,2'`` -> ``[0, 1, 2]``."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) <= 10 and int(part) <= MAX_SEED for part in parts):
        raise UserError(f"--seeds: must be whole numbers from 0 to {MAX_SEED} with commas between, got {text!r}")
    return [int(part) for part in parts]


@app.command(cls=Command)
def report(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="The --work-dir of a sweep, which may still run, or of a single run.")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The file to write; by default report.html in DIR.")
    ] = None,
    open_: Open = False,
    png: Png = None,
) -> None:
    """Write one HTML page of a sweep: verdict, leaderboard, curves, importance of the parameters, losses, images, cost.

    The page needs no network and no other file. The command reads only files, so it also works while the sweep runs.
    """
    from rdistill.report.build import page_of

    _write_page(page_of(folder), out or folder / "report.html", open_, png)


@app.command(cls=Command)
def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="The --work-dir of each sweep.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The file to write.")] = Path("work_dirs/compare.html"),
    open_: Open = False,
    png: Png = None,
) -> None:
    """Write one HTML page that compares several sweeps, and warn where their conditions differ."""
    from rdistill.report.compare import compare_page

    _write_page(compare_page(folders), out, open_, png)


def _write_page(page: Any, file: Path, open_: bool, png: Path | None) -> None:
    from rdistill.report.page import write

    write(page, file)
    print(page.verdict)
    for warning in page.warnings:
        print(f"warning   {warning}")
    print(f"report    {file} ({file.stat().st_size / 1e6:.1f} MB)")
    if png is not None:
        from rdistill.report.png import write_pngs

        print(f"images    {len(write_pngs(page, png))} PNG files in {png}")
    if open_:
        import webbrowser

        webbrowser.open(file.absolute().as_uri())


@app.command(cls=Command)
@with_flags
def layers(
    config: Config_,
    *,
    depth: Annotated[
        int, typer.Option(min=1, help="Depth of the modules to show; 1 shows only the backbone and the heads.")
    ] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print every layer as JSON.")] = False,
    trust_checkpoint: TrustCheckpoint = False,
    loading: ModelFlags,
) -> None:
    """Show the layers of a config's models: names, shapes, strides, parameters, FLOPs.

    For a config with a `distill` section, also show which pairs of features can be compared. Needs neither data nor
    checkpoints.
    """
    from rdistill.checks.layers import as_json as plain
    from rdistill.checks.layers import overview, show

    model_layers = overview(_load(config, loading, with_data=False), trust_checkpoint=trust_checkpoint)
    if as_json:
        print(to_json(plain(model_layers)))
    else:
        show(model_layers, Console(), depth)


@app.command(cls=Command)
@with_flags
def check(
    file: Annotated[Path, typer.Argument(metavar="CONFIG|SWEEP.yaml", help="A config for `train`, or a sweep file.")],
    *,
    work_dir: WorkDir = None,
    run: WorkerFlags,
    address: Annotated[
        str | None,
        typer.Option(help="Address of the Ray cluster whose resources count; by default this machine's count."),
    ] = None,
    loading: LoadFlags,
) -> None:
    """Find all mistakes in a config or a sweep file before training; exit with status 2 and show the first ten.

    Checks files, keys, classes, teacher weights, layer names, feature pairs, one training step on two images, resources
    and disk space; in a sweep file, also every choice of its search space. `train` and `sweep` do most of these checks
    themselves.
    """
    from rdistill.checks.run import check_config, check_resources
    from rdistill.config.shortcuts import Shortcuts
    from rdistill.sweeps.check import check_sweep_file, resources_at

    overrides, arguments = loading.overrides(), loading.as_arguments()
    trust_checkpoint = arguments.pop("trust_checkpoint")
    shortcuts = Shortcuts(**arguments)
    is_sweep = file.suffix in (".yaml", ".yml")
    folder = Path(work_dir or Path("work_dirs") / ("sweeps" if is_sweep else "") / file.stem)
    require_work_dir(folder if work_dir is None else work_dir)
    disk = None if is_uri(work_dir or "") else folder
    if is_sweep:
        report = check_sweep_file(
            file, overrides, shortcuts, work_dir=disk, address=address, trust_checkpoint=trust_checkpoint
        )
    else:
        report = check_config(
            file,
            overrides,
            shortcuts,
            work_dir=disk,
            workers=run.workers,
            trust_checkpoint=trust_checkpoint,
            full_data=True,
        )
        available = resources_at(address, folder)
        report.add("resources", *check_resources("the run", **run.as_arguments(), available=available))
    _print_report(report)
    report.raise_problems()


def _print_report(report: Report) -> None:
    """Prints what `rdistill check` has found to be right, its notes, and the feature pairs that it left out."""
    console = OneLineConsole(highlight=False, soft_wrap=True, markup=False)
    for layout in report.layouts:
        console.print(f"ok        layout     {layout}")
    for part, summary in report.passed:
        console.print(f"ok        {part:<10} {summary}")
    for note in report.notes:
        console.print(f"note      {note}")
    for pair in report.left_out:
        console.print(f"left out  {pair}")


@app.command(cls=Command)
@with_flags
def predict(
    config: Config_,
    checkpoint: Checkpoint,
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Image files, folders of images, or quoted glob patterns.")
    ],
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write masks/ and overlays/ to.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the files and the share of each class as JSON.")
    ] = False,
    loading: ModelFlags,
    trust_checkpoint: TrustCheckpoint = False,
) -> None:
    """Segment images: write a mask and an overlay of each image, and print the share of each class.

    A mask is a PNG of the image's own size whose values are the class indices. CONFIG and CHECKPOINT are student.py
    and student.pth, best.py and best.pth, or any mmseg config and checkpoint. Needs no dataset.
    """
    from rdistill.handover.inference import image_files, load_predictor, require_readable
    from rdistill.handover.predict import output_files, predict_images, show_progress

    selected = image_files(images)
    for line in selected.left_out:
        print(f"left out  {line}", file=sys.stderr)
    require_readable(selected.files)
    output_files(selected.files, out)
    cfg = _load(config, loading, with_teachers=False, with_data=False)
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    predictor = load_predictor(cfg, checkpoint, trust_checkpoint=trust_checkpoint, device=device)
    predictions = predict_images(predictor, selected.files, out)
    if not as_json:
        predictions = show_progress(predictions, len(selected.files), Console())
    results, failure = [], None
    try:
        for result in predictions:
            results.append(result)
    except UserError as error:  # raised below, after the summary of the images before it
        failure = error
    if as_json:
        print(to_json(results))
    else:
        print(f"{counted(len(results), 'mask')} in {out}/masks, overlays in {out}/overlays")
    if failure is not None:
        raise failure


@app.command(cls=Command)
@with_flags
def export(
    config: Config_,
    checkpoint: Checkpoint,
    out: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="The file to write.")],
    *,
    output: Annotated[
        str,
        typer.Option(
            metavar="mask|logits",
            help="What the file returns. mask: the class of each pixel; logits: the scores of every class.",
        ),
    ] = "mask",
    fixed_size: Annotated[
        str | None, typer.Option(metavar="PIXELS|HxW", help="Accept only images of this size; by default, of any size.")
    ] = None,
    opset: Annotated[int, typer.Option(min=16, max=20, help="Version of the ONNX operator set.")] = 18,
    images: Annotated[
        list[str] | None,
        typer.Option(help="Image, folder or pattern to check the file on; by default the validation set. Repeatable."),
    ] = None,
    int8: Annotated[
        bool,
        typer.Option("--int8", help="Quantise to 8 bits, with calibration on images of the config's training set."),
    ] = False,
    fp16: Annotated[
        bool, typer.Option("--fp16", help="Store weights in float16, for runtimes that compute in float16.")
    ] = False,
    max_drop: Annotated[
        float, typer.Option(min=0, help="Validation mIoU, in points, that --int8 or --fp16 may lose against float32.")
    ] = 1.0,
    qat: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="ITERS",
            help="Iterations of quantisation-aware training, which follow only if --int8 loses more than --max-drop.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    loading: DataFlags,
    trust_checkpoint: TrustCheckpoint = False,
) -> None:
    """Write a model as ONNX, for any batch size and image size, and compare it with PyTorch on real images.

    Both masks must be equal on 99.9 % of the pixels; otherwise nothing is written, and the exit status is 1. The file's
    metadata say how to prepare an image and name the classes; `rdistill eval OUT.onnx` scores the file. With --int8 or
    --fp16, the float32 model must pass this comparison, and the smaller file may lose at most --max-drop on the
    validation images. If INT8 loses more, --qat ITERS continues training with 8-bit rounding under the teachers of
    CONFIG (pass a run's config.py). Needs pip install 'rdistill\\[onnx]'.
    """
    from rdistill.config.shortcuts import parse_size
    from rdistill.handover import export as in_float32
    from rdistill.handover import reduce
    from rdistill.handover.inference import image_files, load_predictor, validation_images
    from rdistill.handover.onnx_file import require_packages, write_record

    require_packages()
    precision = _precision(int8=int8, fp16=fp16, qat=qat is not None, images=bool(images))
    if output not in ("mask", "logits"):
        raise UserError(f"--output: must be mask or logits, got {output!r}")
    fixed = parse_size(fixed_size, "--fixed-size") if fixed_size else None
    in_float32.require_writable(out)
    selected = image_files(images) if images else None
    for line in selected.left_out if selected is not None else ():
        print(f"left out  {line}", file=sys.stderr)
    cfg = _load(config, loading, with_teachers=False, with_data=not images)
    predictor = load_predictor(cfg, checkpoint, trust_checkpoint=trust_checkpoint)
    options: Arguments = {"output": output, "fixed_size": fixed, "opset": opset}
    record: ExportRecord = {
        "config": str(config), "checkpoint": str(checkpoint), "overrides": loading.overrides(),
        "shortcuts": loading.as_arguments(), "precision": precision,
    }  # fmt: skip
    if precision == "float32":
        files = validation_images(cfg) if selected is None else selected.files
        exported = in_float32.export_onnx(predictor, out, files, **options)
        plain, lines = in_float32.as_plain(exported), in_float32.summary(exported)
    else:
        _check_splits(cfg, ("train", "val") if int8 else ("val",))
        fine_tune = None if qat is None else _fine_tuner(config, loading, checkpoint, qat, trust_checkpoint)
        reduced = reduce.export_reduced(
            predictor, cfg, out, precision, max_drop=max_drop, fine_tune=fine_tune, **options
        )
        plain, lines = reduce.as_plain(reduced), reduce.summary(reduced)
        if reduced.quantization is not None:
            record["quantization"] = reduced.quantization
    write_record(out, record)
    if as_json:
        print(to_json(plain))
        return
    for topic, line in lines:
        print(f"{topic:<9} {line}")


def _precision(*, int8: bool, fp16: bool, qat: bool, images: bool) -> str:
    """The precision that the flags of `rdistill export` request; a UserError if they contradict each other."""
    if int8 and fp16:
        raise UserError("--int8, --fp16: a file has one precision; to get both, export twice")
    if qat and not int8:
        raise UserError("--qat: trains for INT8; add --int8, or leave --qat out")
    if images and (int8 or fp16):
        raise UserError(
            f"--images: {'--int8' if int8 else '--fp16'} is scored on the config's own data; leave --images out"
        )
    return "int8" if int8 else "fp16" if fp16 else "float32"


def _fine_tuner(config: Path, flags: DataFlags, checkpoint: Path, iterations: int, trust_checkpoint: bool) -> FineTune:
    """Returns the function that continues a student's training with 8-bit rounding, as its config says."""
    from rdistill.config.load import load_run
    from rdistill.config.shortcuts import Shortcuts
    from rdistill.handover.qat import fine_tuner
    from rdistill.training.hooks import Silent

    run = load_run(config, flags.overrides(), Shortcuts(**flags.as_arguments()))
    if run.distill is None:
        _print_note(f"--qat: {config} has no `distill` section, so the student would train on its labels alone")
    return fine_tuner(run, checkpoint, iterations, Silent(), trust=trust_checkpoint)


Store = Annotated[str, typer.Argument(metavar="DIR|URI", help="The store: the value of distill.store.dir.")]


@store_app.command(name="build", cls=Command)
@with_flags
def store_build(
    config: Config_,
    *,
    run: TaskFlags,
    quiet: Quiet = False,
    as_json: AsJson = False,
    loading: BatchFlags,
    trust_checkpoint: TrustCheckpoint = False,
) -> None:
    """Compute a teacher's outputs for all views of the training images, before any training.

    A view is one of the few augmented versions of an image. CONFIG has distill.store with a `dir`: the outputs are
    written there, and every run with the same section reads them from there. The work is spread over the Ray cluster as
    tasks. Outputs that exist are not computed again, so the same command continues where it was stopped.
    """
    from rdistill.config.load import load_run
    from rdistill.config.shortcuts import Shortcuts
    from rdistill.store.build import build_store

    loaded = load_run(config, loading.overrides(), Shortcuts(**loading.as_arguments()))
    scratch = Path("work_dirs", "store", config.stem)
    console = Console(quiet=True) if quiet or as_json else OneLineConsole(highlight=False, soft_wrap=True, markup=False)
    with terminated_like_ctrl_c() as stop:
        try:
            counts = build_store(
                loaded,
                scratch,
                trust_checkpoint=trust_checkpoint,
                console=console,
                **run.as_arguments(),
            )
        except KeyboardInterrupt:
            _print_line("interrupted; the same command continues with the outputs that are missing")
            raise SystemExit(128 + (stop.signum or signal.SIGINT)) from None
    if as_json:
        print(to_json(counts))
    elif quiet:
        print(f"{counted(counts['views'], 'view')}, {counts['computed']} computed")


@store_app.command(name="info", cls=Command)
def store_info(
    store: Store, as_json: Annotated[bool, typer.Option("--json", help="Print the contents as JSON.")] = False
) -> None:
    """Show which teachers' outputs a store holds, how many, and their size."""
    from rdistill.core.words import in_bytes
    from rdistill.distill.store_files import store_files
    from rdistill.store.contents import ID_CHARACTERS, contents, last_use, teacher_name, totals

    teachers = contents(store_files(store))
    if as_json:
        print(to_json(teachers))
        return
    console = OneLineConsole(highlight=False, soft_wrap=True, markup=False)
    for teacher in teachers:
        about = teacher["about"]
        size = f"{counted(teacher['entries'], 'entry')}, {in_bytes(teacher['bytes'])}"
        console.print(f"{teacher['id'][:ID_CHARACTERS]}  {teacher_name(about)}: {size}, used {last_use(about)}")
    total = totals(teachers)
    count = counted(len(teachers), "teacher")
    console.print(f"{store}: {count}, {counted(total['entries'], 'entry')}, {in_bytes(total['bytes'])}")


@store_app.command(name="verify", cls=Command)
def store_verify(
    store: Store,
    remove: Annotated[bool, typer.Option("--remove", help="Remove damaged entries.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
) -> None:
    """Compare every entry of a store with its checksum; exit with status 1 if one is damaged.

    A run computes a damaged entry again by itself.
    """
    from rdistill.core.words import in_bytes
    from rdistill.distill.store_files import store_files
    from rdistill.store.contents import verify

    verified = verify(store_files(store), remove=remove, notify=lambda line: print(line, file=sys.stderr))
    if as_json:
        print(to_json(verified))
    else:
        size = in_bytes(verified["bytes"])
        print(f"{store}: {counted(verified['entries'], 'entry')}, {size}, {verified['damaged']} damaged")
    if verified["damaged"]:
        raise typer.Exit(1)


@store_app.command(name="prune", cls=Command)
def store_prune(
    store: Store,
    teacher: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Remove the teacher whose id, as `store info` shows it, begins with this."),
    ] = None,
    unused_days: Annotated[
        float | None, typer.Option(min=0, help="Remove teachers that no run has started to use for this many days.")
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Remove teachers, the longest unused first, until the store is this small, such as 10GiB.",
        ),
    ] = None,
) -> None:
    """Remove teachers from a store; without an option, remove only the unfinished files of killed processes.

    A run that uses the store at the same time continues: it computes missing outputs again.
    """
    from rdistill.core.words import in_bytes
    from rdistill.distill.store_files import store_files
    from rdistill.store.contents import parse_bytes, prune

    max_bytes = None if max_size is None else parse_bytes(max_size, "--max-size")
    removed = prune(store_files(store), teacher=teacher, unused_days=unused_days, max_bytes=max_bytes, notify=print)
    print(f"{store}: {in_bytes(removed)} removed")
    if teacher is None and unused_days is None and max_size is None:
        print("without --teacher, --unused-days or --max-size, only unfinished files of killed processes are removed")


@data_app.command(cls=Command)
def synthetic(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write img_dir/ and ann_dir/ to.")],
    num_train: Annotated[int, typer.Option(help="Number of training images.")] = 200,
    num_val: Annotated[int, typer.Option(help="Number of validation images.")] = 60,
    size: Annotated[int, typer.Option(help="Height and width of an image, in pixels.")] = 256,
    seed: Annotated[int, typer.Option(help="Another seed draws other eyes.")] = 0,
    mask_error: Annotated[
        int, typer.Option(help="Error of the training masks, in percent of the disc's radius; 0 draws exact masks.")
    ] = 0,
) -> None:
    """Draw fundus photographs and masks of the optic disc, with vessels, uneven light and bright distractors."""
    from rdistill.data.synthetic import generate

    generate(out, num_train=num_train, num_val=num_val, size=size, seed=seed, mask_error=mask_error)
    print(f"{out}: {num_train} training and {num_val} validation images of {size} x {size} pixels")


def main() -> None:
    """Runs the console script: every error becomes one line and an exit status."""
    for stream in (sys.stdout, sys.stderr):  # a file name may be invalid text; such bytes are printed as \\udcff
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    keep_to_the_work_dir()
    try:
        status = app(standalone_mode=False) or 0
        if status == 130:  # Typer's status for Ctrl-C
            _print_line("interrupted")
        sys.exit(status)
    except UserError as error:
        _print_errors(*error.problems)
        sys.exit(2)
    except Stopped as stopped:
        _print_line(f"{stopped}; continue with --resume")
        sys.exit(128 + stopped.signum)
    except (RunError, LibraryChangedError) as error:
        _print_errors(str(error))
        sys.exit(1)
    except AnyError as error:
        _leave_for_usage(error)
    except (OSError, UnicodeError) as error:
        if (problem := problem_of_path(error)) is not None:
            _print_errors(problem)
            sys.exit(2)
        if not isinstance(error, OSError) or error.errno not in DISK_ERRNOS:
            raise
        _print_errors(f"{error.filename or 'the disk'}: cannot be written: {error.strerror}")
        sys.exit(1)


def _leave_for_usage(error: Any) -> NoReturn:
    """Reports a command line that Typer could not read; a command group without a command shows its help."""
    if isinstance(error, ShowsHelp):
        error.ctx.get_help()  # this call prints the help itself if rich is installed
    else:
        _print_errors(usage_line(error))
    sys.exit(2)


def _print_errors(*problems: str) -> None:
    """Prints one line for each problem; if there are more than ``MAX_ERRORS``, the first ones and the number left."""
    shown = problems if len(problems) <= MAX_ERRORS else problems[: MAX_ERRORS - 1]
    for problem in shown:
        _print_line(f"error: {problem}")
    if len(shown) < len(problems):
        _print_line(f"error: and {len(problems) - len(shown)} more, which are shown when these are fixed")


def _print_line(line: str) -> None:
    print(printable(line), file=sys.stderr)
