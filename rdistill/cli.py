"""The commands. The only place that prints and exits: 0 done, 2 the user's mistake, 1 anything else."""

from __future__ import annotations

import errno
import io
import signal
import sys
from collections.abc import Iterator
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

    from rdistill.handover.reduce import FineTune
    from rdistill.schemas.exported import ExportRecord
    from rdistill.schemas.mappings import Arguments
    from rdistill.schemas.run import Scores

MOST_ERRORS = 10  # lines
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE)  # no mistake of the user's
INTERRUPTED = "interrupted; a run or a sweep continues with --resume"

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Which way of distilling this teacher into this student works best, and by how much?

    rdistill data synthetic data/synthetic           # images to try it on

    rdistill init --data DIR                         # or your own: writes the files of a study

    rdistill train configs/teacher/NAME.py           # a teacher, or a student

    rdistill train configs/distill/NAME.py           # a student under its teacher

    rdistill sweep sweeps/coef.yaml --data-root DIR  # many, and which is best

    rdistill report work_dirs/sweeps/coef            # by how much, and why
    """,
)
data_app = typer.Typer(no_args_is_help=True, help="Make data to train on.")
app.add_typer(data_app, name="data")
store_app = typer.Typer(no_args_is_help=True, help="Teachers' outputs for views of images: fill, look at, prune.")
app.add_typer(store_app, name="store")


@contextmanager
def _resumable(request: StopRequest) -> Iterator[None]:
    """What Ctrl-C and SIGTERM say of a command that can go on where it was stopped."""
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


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"rdistill {version('rdistill')}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


Config_ = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="An mmseg config file, with or without a `distill` section.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the result and errors only.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object at the end, and errors.")]
Checkpoint = Annotated[
    Path,
    typer.Argument(metavar="CHECKPOINT", help="student.pth, best.pth, or any mmseg checkpoint of the config's model."),
]
WorkDir = Annotated[
    str | None,
    typer.Option(
        metavar="DIR|URI",
        help="Where everything is written: a folder, or a URI such as s3://bucket/run; by default work_dirs/ and the "
        "file's name.",
    ),
]


@app.command(cls=Command)
def init(
    data: Annotated[Path, typer.Option(metavar="DIR", help="The folder of images and masks.")],
    student: Annotated[
        str | None, typer.Option(metavar="NAME", help="A model of `rdistill models`, or a config file.")
    ] = None,
    teacher: Annotated[str | None, typer.Option(metavar="NAME", help="The same for the teacher.")] = None,
    size: Annotated[
        int | None, typer.Option(help="Pixels of the images' shorter side; by default what the machine can do.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the files go; by default work_dirs/init/ and the folder's name."),
    ] = None,
    classes: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="Names of the classes, in the order of their numbers.")
    ] = None,
    colors: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Which colour of the masks is which class: a line `NAME R G B` each."),
    ] = None,
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="Start from the zoo's weights, which are downloaded once.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
) -> None:
    """Look at a folder of images and masks, and write the files of a study: student, teacher, distillation, sweep.

    Recognises lists, Cityscapes, Pascal VOC, ADE20K, COCO, and folders of images beside folders of masks. Prints what
    it decided and why, and the three commands to run next. Nothing in DIR is changed or copied.
    """
    from rdistill.init.run import Wanted, start

    names = tuple(name.strip() for name in classes.split(",")) if classes is not None else None
    made = start(Wanted(data, student, teacher, size, out, names, colors, pretrained, force))
    console = OneLineConsole(highlight=False, soft_wrap=True, markup=False)
    for about, text in made.decisions:
        console.print(f"{about:<9} {text}")
    for note in made.notes:
        console.print(f"note      {note}")
    for file in made.files:
        console.print(f"wrote     {file}")
    console.print("run next")
    for command in made.commands:
        console.print(f"  {command}")


@app.command(cls=Command)
def models(
    pattern: Annotated[str | None, typer.Argument(metavar="[TEXT]", help="Only names that hold this.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure now, with what is installed; minutes for all of them.")
    ] = False,
) -> None:
    """List the models that `init` takes as student or teacher, the smallest first: parameters, FLOPs.

    They are those of mmseg's installed configs, and two of rdistill's own.
    """
    from rdistill.init.list_models import as_plain, listed, shown

    chosen = listed(pattern, measured_now=measure)
    if as_json:
        print(to_json(as_plain(chosen)))
        return
    console = OneLineConsole(highlight=False, soft_wrap=True, markup=False)
    for line in shown(chosen, measured_now=measure):
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

    Writes to the work dir: metrics.json, student.pth and student.py (the best iteration, for plain mmseg), best.pth
    and last.pth (to resume from), config.py (the whole config), and mmengine's log.
    """
    from rdistill import api

    with on_signals() as stop, _resumable(stop):
        metrics = api.train(
            config,
            work_dir,
            overrides=loading.overrides(),
            stop=stop,
            quiet=quiet or as_json,
            **run.given(),
            **loading.given(),
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
        Path, typer.Argument(metavar="CONFIG|OUT.onnx", help="An mmseg config file; or a file of `export` by itself.")
    ],
    checkpoint: Annotated[
        Path | None,
        typer.Argument(
            metavar="CHECKPOINT|OUT.onnx",
            help="student.pth, best.pth, any mmseg checkpoint of the config's model, or a file of `export`.",
            show_default=False,
        ),
    ] = None,
    *,
    split: Annotated[str, typer.Option(metavar="val|test", help="Which split to score on.")] = "val",
    runtime: Annotated[
        str | None,
        typer.Option(
            metavar="onnxruntime|openvino", help="What runs OUT.onnx; onnxruntime unless named, and always beside it."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
    loading: DataFlags,
    trust_checkpoint: TrustCheckpoint = False,
) -> None:
    """Score a checkpoint of the config's model: mIoU, pixel accuracy and the IoU of every class, in percent.

    The files of the split are looked at first, as `check` does. An ONNX file is scored itself, by onnxruntime or, with
    --runtime openvino, by both, beside the student that it was exported from: OUT.onnx.json, which lies beside it, says
    with which config and checkpoint.
    """
    from rdistill import api
    from rdistill.schemas.exported import RUNTIMES

    if split not in ("val", "test"):
        raise UserError(f"--split: must be val or test, got {split!r}")
    if runtime not in (None, *RUNTIMES):
        raise UserError(f"--runtime: must be {' or '.join(RUNTIMES)}, got {runtime!r}")
    if (checkpoint or config).suffix == ".onnx":
        own_config = None if checkpoint is None else config
        how = {"split": split, "trust_checkpoint": trust_checkpoint, "runtime": runtime or "onnxruntime"}
        _evaluate_file(own_config, checkpoint or config, how, as_json=as_json, flags=loading)
        return
    if runtime is not None:
        raise UserError(f"--runtime: is for a file of `export`, and {checkpoint or config} is none; leave it out")
    if checkpoint is None:
        raise UserError("CHECKPOINT: is required; see `rdistill eval --help`")
    cfg = _load(config, loading, with_teachers=False)
    metrics = api.evaluate(cfg, checkpoint, split=split, trust_checkpoint=trust_checkpoint, noted=_note)
    if as_json:
        print(to_json(metrics))
        return
    _print_scores(metrics, cfg, split)


def _evaluate_file(config: Path | None, file: Path, how: Arguments, *, as_json: bool, flags: DataFlags) -> None:
    """`rdistill eval` of an exported file; ``how`` as for :func:`rdistill.handover.score.score_file`."""
    from rdistill.config.load import load_config
    from rdistill.config.shortcuts import Shortcuts
    from rdistill.handover.onnx_file import read_record, require_packages
    from rdistill.handover.score import as_plain, lines, score_file
    from rdistill.training.run import check_evaluation

    require_packages(("onnxruntime",), "eval of an ONNX file")
    record = read_record(file)
    if config is None and record is None:
        raise UserError(f"{file}: no {file.name}.json beside it says what it was made of; pass CONFIG before it")
    made_with = record or {"overrides": {}, "shortcuts": {}}
    changed = {name: value for name, value in flags.given().items() if value is not None}
    cfg = load_config(
        config or made_with["config"],
        {**made_with["overrides"], **flags.overrides()},
        Shortcuts(**{**made_with["shortcuts"], **changed}),
        with_teachers=False,
    )
    for note in check_evaluation(cfg, how["split"]):
        _note(note)
    checkpoint = None if record is None else record["checkpoint"]
    if checkpoint is not None and not Path(checkpoint).is_file():
        _note(f"{checkpoint}: is not there any more, so the student in PyTorch is not scored beside the file")
        checkpoint = None
    scored = score_file(cfg, file, checkpoint, **how)
    if as_json:
        print(to_json(as_plain(scored)))
        return
    _print_scores(scored.scores, cfg, how["split"])
    for word, line in lines(scored):
        print(f"{word:<9} {line}")


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
    """A config with what the command line changes in it; ``parts``: as for :func:`rdistill.config.load.load_config`."""
    from rdistill.config.load import load_config
    from rdistill.config.shortcuts import Shortcuts

    return load_config(config, flags.overrides(), Shortcuts(**flags.given()), **parts)


def _note(line: str) -> None:
    """On standard error, for `--json` is one object."""
    print(f"note      {line}", file=sys.stderr)


@app.command(cls=Command)
@with_flags
def sweep(
    sweep_file: Annotated[
        Path, typer.Argument(metavar="SWEEP.yaml", help="The study: a config, a search space, a searcher.")
    ],
    *,
    work_dir: WorkDir = None,
    run: SweepFlags,
    quiet: Quiet = False,
    as_json: AsJson = False,
    loading: LoadFlags,
) -> None:
    """Train many students, a baseline without distillation always among them, and rank them.

    Writes to the work dir: results.csv (a row a trial), best.py and best.pth (the winner, for plain mmseg), and a
    folder for each trial with its own trial.py, which `rdistill train` repeats.
    """
    from rdistill import api

    with terminated_like_ctrl_c() as stop, _resumable(stop):
        result = api.sweep(
            sweep_file,
            work_dir,
            overrides=loading.overrides(),
            quiet=quiet or as_json,
            **run.given(),
            **loading.given(),
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
        str | None, typer.Option(metavar="SEED,...", help="Of the trainings, at least two; by default 0,1.")
    ] = None,
    iters: Annotated[
        int | None, typer.Option(help="Iterations of the short trainings; by default a quarter of the config's.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue what is in --work-dir.")] = False,
    group: WorkerFlags,
    address: Address = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    loading: BatchFlags,
    trust_checkpoint: TrustCheckpoint = False,
) -> None:
    """Say how much a `distill` config has to gain, before hours are spent on a sweep.

    Short trainings of the student alone, twice as long, with half of the labels, with the teacher's classes as labels,
    and distilled as configured: what binds, how many seeds a sweep needs, what it costs, and what to do first.
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
            **group.given(),
            **loading.given(),
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
        Path, typer.Argument(metavar="DIR", help="The --work-dir of a sweep, running or done; or of a run.")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the page goes; by default report.html in DIR.")
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
    png: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write each figure as a PNG for a paper; needs Chromium.")
    ] = None,
) -> None:
    """Write one HTML page of a sweep: verdict, leaderboard, curves, what mattered, losses, images, cost.

    It needs no network and no other file. Reads what is on disk, so it may be run while the sweep runs.
    """
    from rdistill.report.build import page_of

    _write_page(page_of(folder), out or folder / "report.html", open_, png)


@app.command(cls=Command)
def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="The --work-dir of each sweep.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the page goes.")] = Path("work_dirs/compare.html"),
    open_: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
    png: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write each figure as a PNG for a paper; needs Chromium.")
    ] = None,
) -> None:
    """Write one HTML page of several sweeps beside each other; says where they are not on equal terms."""
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
    depth: Annotated[int, typer.Option(min=1, help="How deep into the model: 1 is backbone and heads.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print every layer as JSON.")] = False,
    loading: ModelFlags,
) -> None:
    """Show the layers of a config's models: names, shapes, strides, parameters, FLOPs.

    For a `distill` config also which pairs of features can be compared. Needs neither data nor checkpoints.
    """
    from rdistill.checks.layers import as_json as plain
    from rdistill.checks.layers import overview, show

    seen = overview(_load(config, loading, with_data=False))
    if as_json:
        print(to_json(plain(seen)))
    else:
        show(seen, Console(), depth)


@app.command(cls=Command)
@with_flags
def check(
    file: Annotated[Path, typer.Argument(metavar="CONFIG|SWEEP.yaml", help="What `train` or `sweep` would be given.")],
    *,
    work_dir: WorkDir = None,
    run: WorkerFlags,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to ask for its resources; by default this machine is meant.")
    ] = None,
    loading: LoadFlags,
) -> None:
    """Find every mistake in a config or a sweep before time is spent; the first ten are shown, with status 2.

    Files, keys, classes, teacher weights, layer names, pairs, one training step on two images, resources and disk
    space; for a sweep every choice in its space. `train` and `sweep` check most of it themselves.
    """
    from rdistill.checks.run import check_config, check_resources
    from rdistill.config.shortcuts import Shortcuts
    from rdistill.sweeps.check import check_sweep_file, resources_at

    overrides, arguments = loading.overrides(), loading.given()
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
        have = resources_at(address, folder)
        report.add("resources", *check_resources("the run", **run.given(), have=have))
    console = OneLineConsole(highlight=False, soft_wrap=True, markup=False)
    for layout in report.layouts:
        console.print(f"ok        layout     {layout}")
    for part, summary in report.passed:
        console.print(f"ok        {part:<10} {summary}")
    for note in report.notes:
        console.print(f"note      {note}")
    for pair in report.left_out:
        console.print(f"left out  {pair}")
    report.raise_problems()


@app.command(cls=Command)
@with_flags
def predict(
    config: Config_,
    checkpoint: Checkpoint,
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Image files, folders of images, or quoted glob patterns.")
    ],
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for masks/ and overlays/.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print files and shares as JSON.")] = False,
    loading: ModelFlags,
    trust_checkpoint: TrustCheckpoint = False,
) -> None:
    """Segment images: a mask and an overlay of each, and the share of each class.

    A mask is a PNG whose values are the class indices, at the image's own size. CONFIG and CHECKPOINT are student.py
    and student.pth, best.py and best.pth, or any config and checkpoint of mmseg. Needs no dataset.
    """
    from rdistill.handover.inference import image_files, load_predictor, require_readable
    from rdistill.handover.predict import output_files, predict_images, show_progress

    wanted = image_files(images)
    for line in wanted.left_out:
        print(f"left out  {line}", file=sys.stderr)
    require_readable(wanted.files)
    output_files(wanted.files, out)
    cfg = _load(config, loading, with_teachers=False, with_data=False)
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    predictor = load_predictor(cfg, checkpoint, trust_checkpoint=trust_checkpoint, device=device)
    coming = predict_images(predictor, wanted.files, out)
    if not as_json:
        coming = show_progress(coming, len(wanted.files), Console())
    results, failed = [], None
    try:
        for result in coming:
            results.append(result)
    except UserError as error:  # the summary of what is done comes first
        failed = error
    if as_json:
        print(to_json(results))
    else:
        print(f"{len(results)} masks in {out}/masks, overlays in {out}/overlays")
    if failed is not None:
        raise failed


@app.command(cls=Command)
@with_flags
def export(
    config: Config_,
    checkpoint: Checkpoint,
    out: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="The file to write.")],
    *,
    output: Annotated[
        str,
        typer.Option(metavar="mask|logits", help="mask: the class of each pixel; logits: the scores of every class."),
    ] = "mask",
    fixed_size: Annotated[
        str | None, typer.Option(metavar="PIXELS|HxW", help="Accept images of this size only; by default of any.")
    ] = None,
    opset: Annotated[int, typer.Option(min=16, max=20, help="ONNX operator set.")] = 18,
    images: Annotated[
        list[str] | None,
        typer.Option(help="Images to check on, a folder or a pattern; by default the validation set. Repeatable."),
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantise to 8 bits, calibrated on images of the config's training set.")
    ] = False,
    fp16: Annotated[
        bool, typer.Option("--fp16", help="Keep weights in float16, for runtimes that compute in it.")
    ] = False,
    max_drop: Annotated[
        float, typer.Option(min=0, help="Points of validation mIoU that --int8 or --fp16 may lose to float32.")
    ] = 1.0,
    qat: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="ITERS", help="Train so long with 8-bit rounding where --int8 loses more than --max-drop."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    loading: DataFlags,
    trust_checkpoint: TrustCheckpoint = False,
) -> None:
    """Write a model as ONNX, of any batch and image size, checked against PyTorch on real images.

    The masks of both must be equal on 99.9 % of the pixels: otherwise nothing is written, and the status is 1. The
    file's metadata say how an image is prepared and what the classes are; `rdistill eval OUT.onnx` scores it. With
    --int8 or --fp16 the float32 file must pass, and the smaller one lose at most --max-drop on the validation images.
    --qat ITERS trains the student on where INT8 loses more, under the teachers of CONFIG, such as a run's config.py.
    Needs pip install 'rdistill[onnx]'.
    """
    from rdistill.config.shortcuts import parse_size
    from rdistill.handover import export as in_float32
    from rdistill.handover import reduce
    from rdistill.handover.inference import image_files, load_predictor, validation_images
    from rdistill.handover.onnx_file import require_packages, write_record
    from rdistill.training.run import check_evaluation

    require_packages()
    if int8 and fp16:
        raise UserError("--int8, --fp16: a file has one of them; export twice for both")
    precision = "int8" if int8 else "fp16" if fp16 else "float32"
    if qat is not None and not int8:
        raise UserError("--qat: trains for INT8; add --int8, or leave it out")
    if images and precision != "float32":
        raise UserError(f"--images: {'--int8' if int8 else '--fp16'} is scored on the config's own data; leave it out")
    if output not in ("mask", "logits"):
        raise UserError(f"--output: must be mask or logits, got {output!r}")
    fixed = parse_size(fixed_size, "--fixed-size") if fixed_size else None
    in_float32.require_writable(out)
    wanted = image_files(images) if images else None
    for line in wanted.left_out if wanted is not None else ():
        print(f"left out  {line}", file=sys.stderr)
    cfg = _load(config, loading, with_teachers=False, with_data=not images)
    predictor = load_predictor(cfg, checkpoint, trust_checkpoint=trust_checkpoint)
    how: Arguments = {"output": output, "fixed_size": fixed, "opset": opset}
    record: ExportRecord = {
        "config": str(config), "checkpoint": str(checkpoint), "overrides": loading.overrides(),
        "shortcuts": loading.given(), "precision": precision,
    }  # fmt: skip
    if precision == "float32":
        files = validation_images(cfg) if wanted is None else wanted.files
        exported = in_float32.export_onnx(predictor, out, files, **how)
        plain, lines = in_float32.as_plain(exported), in_float32.summary(exported)
    else:
        for split in ("train", "val") if int8 else ("val",):
            for note in check_evaluation(cfg, split):
                _note(note)
        tune = None if qat is None else _fine_tuner(config, loading, checkpoint, qat, trust_checkpoint)
        reduced = reduce.export_reduced(predictor, cfg, out, precision, max_drop=max_drop, fine_tune=tune, **how)
        plain, lines = reduce.as_plain(reduced), reduce.summary(reduced)
        if reduced.quantization is not None:
            record["quantization"] = reduced.quantization
    write_record(out, record)
    if as_json:
        print(to_json(plain))
        return
    for word, line in lines:
        print(f"{word:<9} {line}")


def _fine_tuner(config: Path, flags: DataFlags, checkpoint: Path, iterations: int, trust_checkpoint: bool) -> FineTune:
    """What trains a student on with rounding, as its config says."""
    from rdistill.config.load import load_run
    from rdistill.config.shortcuts import Shortcuts
    from rdistill.handover.qat import fine_tuner
    from rdistill.training.hooks import Silent

    run = load_run(config, flags.overrides(), Shortcuts(**flags.given()))
    if run.distill is None:
        _note(f"--qat: {config} has no `distill` section, so the student would be trained on by its labels alone")
    return fine_tuner(run, checkpoint, iterations, Silent(), trust=trust_checkpoint)


Store = Annotated[str, typer.Argument(metavar="DIR|URI", help="The store: what distill.store.dir names.")]


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

    CONFIG has distill.store with a `dir`, where every run with the same section then finds them. The work goes over the
    Ray cluster as tasks. What is there is not computed again: the same command goes on where it was stopped.
    """
    from rdistill.config.load import load_run
    from rdistill.config.shortcuts import Shortcuts
    from rdistill.store.build import build_store

    loaded = load_run(config, loading.overrides(), Shortcuts(**loading.given()))
    scratch = Path("work_dirs", "store", config.stem)
    console = Console(quiet=True) if quiet or as_json else OneLineConsole(highlight=False, soft_wrap=True, markup=False)
    with terminated_like_ctrl_c() as stop:
        try:
            done = build_store(
                loaded,
                scratch,
                trust_checkpoint=trust_checkpoint,
                console=console,
                **run.given(),
            )
        except KeyboardInterrupt:
            _print_line("interrupted; the same command goes on with what is missing")
            raise SystemExit(128 + (stop.signum or signal.SIGINT)) from None
    if as_json:
        print(to_json(done))
    elif quiet:
        print(f"{done['views']} views, {done['computed']} computed")


@store_app.command(name="info", cls=Command)
def store_info(
    where: Store, as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False
) -> None:
    """Show whose outputs a store holds, how many and how large."""
    from rdistill.core.files import in_bytes
    from rdistill.distill.store_files import store_files
    from rdistill.store.contents import ID_CHARACTERS, contents, totals, used, whose

    held = contents(store_files(where))
    if as_json:
        print(to_json(held))
        return
    console = OneLineConsole(highlight=False, soft_wrap=True, markup=False)
    for of_teacher in held:
        about = of_teacher["about"]
        size = f"{of_teacher['entries']} entries, {in_bytes(of_teacher['bytes'])}"
        console.print(f"{of_teacher['id'][:ID_CHARACTERS]}  {whose(about)}: {size}, used {used(about)}")
    whole = totals(held)
    console.print(
        f"{where}: {len(held)} teacher{'s' * (len(held) != 1)}, {whole['entries']} entries, {in_bytes(whole['bytes'])}"
    )


@store_app.command(name="verify", cls=Command)
def store_verify(
    where: Store,
    remove: Annotated[bool, typer.Option("--remove", help="Remove what is damaged.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Read every entry of a store and compare it with its checksum; status 1 where one is damaged.

    A run computes a damaged entry again by itself.
    """
    from rdistill.core.files import in_bytes
    from rdistill.distill.store_files import store_files
    from rdistill.store.contents import verify

    verified = verify(store_files(where), remove=remove, say=lambda line: print(line, file=sys.stderr))
    if as_json:
        print(to_json(verified))
    else:
        size = in_bytes(verified["bytes"])
        print(f"{where}: {verified['entries']} entries, {size}, {verified['damaged']} damaged")
    if verified["damaged"]:
        raise typer.Exit(1)


@store_app.command(name="prune", cls=Command)
def store_prune(
    where: Store,
    teacher: Annotated[
        str | None, typer.Option(metavar="ID", help="Remove this teacher: the beginning of its id in `store info`.")
    ] = None,
    unused_days: Annotated[
        float | None, typer.Option(min=0, help="Remove teachers that no run has begun to use for so many days.")
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Remove teachers, longest unused first, until the rest fits, such as 10GiB."),
    ] = None,
) -> None:
    """Remove teachers from a store; without an option, only what killed processes have left of files.

    While a run uses the store nothing is lost but time: what it misses it computes again.
    """
    from rdistill.core.files import in_bytes
    from rdistill.distill.store_files import store_files
    from rdistill.store.contents import parse_bytes, prune

    most = None if max_size is None else parse_bytes(max_size, "--max-size")
    removed = prune(store_files(where), teacher=teacher, unused_days=unused_days, max_bytes=most, say=print)
    print(f"{where}: {in_bytes(removed)} removed")


@data_app.command(cls=Command)
def synthetic(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write img_dir/ and ann_dir/ to.")],
    num_train: Annotated[int, typer.Option(help="Training images.")] = 200,
    num_val: Annotated[int, typer.Option(help="Validation images.")] = 60,
    size: Annotated[int, typer.Option(help="Pixels a side.")] = 256,
    seed: Annotated[int, typer.Option(help="Another seed gives other eyes.")] = 0,
    mask_error: Annotated[
        int, typer.Option(help="Percent of the disc's radius by which training masks may be off. 0: exact.")
    ] = 0,
) -> None:
    """Draw fundus photographs with the optic disc marked: vessels, uneven light, bright distractors."""
    from rdistill.data.synthetic import generate

    generate(out, num_train=num_train, num_val=num_val, size=size, seed=seed, mask_error=mask_error)
    print(f"{out}: {num_train} training and {num_val} validation images of {size} x {size} pixels")


def main() -> None:
    """The console script: turns errors into one line each and an exit status."""
    for stream in (sys.stdout, sys.stderr):  # a file name need not be text: what cannot be printed is shown as \\udcff
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    keep_to_the_work_dir()
    try:
        status = app(standalone_mode=False) or 0
        if status == 130:  # what Typer makes of Ctrl-C
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
        if not isinstance(error, OSError) or error.errno not in DISK:
            raise
        _print_errors(f"{error.filename or 'the disk'}: cannot be written: {error.strerror}")
        sys.exit(1)


def _leave_for_usage(error: Any) -> NoReturn:
    """A command line that Typer could not read; a group of commands without one shows its help."""
    if isinstance(error, ShowsHelp):
        error.ctx.get_help()  # prints it itself where rich is used
    else:
        _print_errors(usage_line(error))
    sys.exit(2)


def _print_errors(*problems: str) -> None:
    """One line each; of more than a screen of them the first ones, and how many there are."""
    shown = problems if len(problems) <= MOST_ERRORS else problems[: MOST_ERRORS - 1]
    for problem in shown:
        _print_line(f"error: {problem}")
    if len(shown) < len(problems):
        _print_line(f"error: and {len(problems) - len(shown)} more, which are shown when these are mended")


def _print_line(line: str) -> None:
    print(printable(line), file=sys.stderr)
