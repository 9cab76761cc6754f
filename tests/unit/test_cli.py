"""The commands: help, one line for each mistake with status 2, and output that a program can read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import typer
from command_names import every_command
from conftest import Command, Run, Tiny
from PIL import Image
from typer.testing import CliRunner

from rdistill.cli import app


@pytest.mark.parametrize(
    "path", every_command(typer.main.get_command(app)), ids=lambda path: " ".join(path) or "rdistill"
)  # type: ignore[arg-type]
def test_help(path: tuple[str, ...]) -> None:
    for option in ("--help", "-h"):
        result = CliRunner().invoke(app, [*path, option])
        assert result.exit_code == 0 and "Usage:" in result.output


def test_commands_that_must_be_there() -> None:
    names = {" ".join(path) for path in every_command(typer.main.get_command(app))}  # type: ignore[arg-type]
    assert {"train", "eval", "sweep", "data synthetic"} <= names


# ---------------------------------------------------------------------------------------------------------
# Mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nothing.py"], "nothing.py: no such config file"),
        (["train", "{folder}/distil.py"], "no such config file; did you mean {folder}/distill.py?"),
        (["train", "{folder}/distill.py", "--set", "optim_wrapper.optimizr.lr=1"], "did you mean 'optimizer'?"),
        (["train", "{folder}/distill.py", "--set", "distill.losses.logits.tua=1"], "tua is not a parameter"),
        (["train", "{folder}/distill.py", "--set", "train_cfg.max_iters=many"], "must be a number, got 'many'"),
        (["train", "{folder}/distill.py", "--set", "novalue"], "--set novalue: must be key=value"),
        (
            ["train", "{folder}/distill.py", "--set", "distill.features.student.1=backbone.layre4"],
            "distill.features.student[1]: feature 'backbone.layre4': EncoderDecoder has no layer 'backbone.layre4'",
        ),
        (
            ["train", "{folder}/distill.py", "--teacher-checkpoint", "missing.pth"],
            "distill.teachers[0].checkpoint: no such file missing.pth; train the teacher with `rdistill train",
        ),
        (["train", "{folder}/distill.py", "--size", "big"], "--size: must be pixels such as 128"),
        (["train", "{folder}/distill.py", "--data-root", "nowhere"], "no such directory"),
        (["eval", "{folder}/student.py", "missing.pth"], "missing.pth: no such checkpoint file"),
        (
            ["eval", "{folder}/student.py", "{folder}/teacher/best.pth"],
            "best.pth: does not fit the model (EncoderDecoder)",
        ),
        (["eval", "{folder}/student.py", "x.pth", "--split", "train"], "--split: must be val or test, got 'train'"),
        (["data", "synthetic", "out", "--size", "3"], "size"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[:2]),
)
def test_a_mistake_is_one_line_and_status_2(command: Command, tiny: Tiny, arguments: list[str], message: str) -> None:
    arguments = [argument.format(folder=tiny.folder) for argument in arguments]
    if arguments[0] != "data" and "--data-root" not in arguments:
        arguments += ["--data-root", str(tiny.data_root)]
    result = command(*arguments)
    assert result.status == 2, result
    assert result.err.startswith("error: ") and result.err.count("\n") == 1 and "Traceback" not in result.err
    assert message.format(folder=tiny.folder) in result.err


def test_of_very_many_mistakes_the_first_are_shown(command: Command) -> None:
    result = command("train", "a.py", *(word for i in range(30) for word in ("--set", f"word{i}")))
    lines = result.err.splitlines()
    assert result.status == 2 and len(lines) == 10 and lines[0] == "error: --set word0: must be key=value"
    assert lines[-1] == "error: and 21 more, which are shown when these are fixed"


def test_each_mistake_has_its_line(command: Command, tiny: Tiny) -> None:
    wrong = ["--set", "optim_wrapper.lr=1", "--set", "train_cfg.max_iters=x", "--batch-size", 0]
    result = command("train", tiny.folder / "distill.py", "--data-root", tiny.data_root, *wrong)
    lines = result.err.splitlines()
    assert result.status == 2 and len(lines) == 3 and all(line.startswith("error: ") for line in lines)


# ---------------------------------------------------------------------------------------------------------
# Work


def test_data_synthetic(command: Command, tmp_path: Path) -> None:
    result = command("data", "synthetic", tmp_path / "data", "--num-train", 2, "--num-val", 1, "--size", 32)
    assert (result.status, result.err) == (0, "")
    assert result.out == f"{tmp_path}/data: 2 training and 1 validation images of 32 x 32 pixels\n"
    assert len(list((tmp_path / "data").glob("*_dir/*/*"))) == 6


def test_eval_prints_scores(command: Command, distilled_run: Run) -> None:
    result = command("eval", distilled_run.folder / "student.py", distilled_run.folder / "student.pth")
    assert (result.status, result.err) == (0, "")
    first, background, disc = result.out.splitlines()
    assert first.startswith(
        f"mIoU {distilled_run.metrics['mIoU']:.2f}  aAcc {distilled_run.metrics['aAcc']:.2f}  (val split"
    )
    assert background.split() == ["background", f"{distilled_run.metrics['IoU']['background']:.2f}"]
    assert disc.split() == ["optic", "disc", f"{distilled_run.metrics['IoU']['optic disc']:.2f}"]


NOT_UTF8 = os.fsdecode(b"caf\xe9")
LONG = "n" * 300


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["report", LONG], "its name is too long"),
        (["report", "file/below"], "no such folder"),
        (["compare", LONG, "folder"], "its name is too long"),
        (["data", "synthetic", LONG], "its name is too long"),
        (["data", "synthetic", "file/below"], "lies below a file, where a folder is needed"),
        (["data", "synthetic", "/proc/nowhere"], "no such file or folder, or none can be made there"),
        (["train", LONG + ".py"], "its name is too long"),
        (["train", NOT_UTF8 + ".py"], "no such config file"),
        (["eval", "CONFIG", LONG], "its name is too long"),
        (["eval", "CONFIG", NOT_UTF8], "no such checkpoint file"),
        (["predict", "CONFIG", "WEIGHTS", LONG, "--out", "out"], "its name is too long"),
        (["predict", "CONFIG", "WEIGHTS", "image.png", "--out", LONG], "File name too long"),
        (["export", "CONFIG", "WEIGHTS", LONG, "--images", "image.png"], "File name too long"),
        (["export", "CONFIG", "WEIGHTS", "folder", "--images", "image.png"], "is a folder; name the file"),
        (["export", "CONFIG", "WEIGHTS", "/proc/x.onnx", "--images", "image.png"], "cannot be written"),
    ],
)
def test_a_path_that_cannot_be_is_one_line(
    command: Command, distilled_run: Run, tmp_path: Path, arguments: list[str], said: str
) -> None:
    if arguments[0] == "export":
        pytest.importorskip("onnxscript", reason="pip install 'rdistill[onnx]'")
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "image.png")
    files = {"CONFIG": str(distilled_run.folder / "student.py"), "WEIGHTS": str(distilled_run.folder / "student.pth")}
    result = command(*(files.get(word, word) for word in arguments))
    assert result.status == 2 and said in result.err and len(result.err.splitlines()) == 1, result
