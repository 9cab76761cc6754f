"""What a run looks like, on a terminal of 80 columns and piped."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from rdistill.training.console import RunConsole


def piped() -> Console:
    return Console(file=io.StringIO(), width=80, highlight=False, soft_wrap=True)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def run(console: Console) -> None:
    with RunConsole(console) as shown:
        shown.training_started(first_iteration=0, last_iteration=100, facts={"teacher_mIoU": 81.25})
        for iteration in range(10, 101, 10):
            shown.stepped(iteration, {"loss": 1.0, "decode.loss_ce": 0.5, "distill.loss_logits": 0.5, "lr": 0.01})
        shown.validated(100, {"mIoU": 70.0, "IoU": {"background": 90.0, "disc": 50.0}})


def test_a_run_that_is_piped() -> None:
    console = piped()
    run(console)
    lines = text(console).splitlines()
    assert lines[0] == "teacher   mIoU 81.25" and len(lines) == 12
    assert lines[1].startswith("iter 10/100  eta 0:00:00  loss 1  ce 0.5  logits 0.5")
    assert lines[-1] == "validated iter 100  mIoU 70.00  (background 90.00, disc 50.00)  best so far"
    assert "\x1b" not in text(console)


def test_images_without_masks_are_counted_first() -> None:
    console = piped()
    with RunConsole(console) as shown:
        shown.training_started(first_iteration=0, last_iteration=1, facts={"images": "6 images without masks"})
    assert text(console) == "data      6 images without masks\n"


@pytest.mark.parametrize("variable", ["TERM", "NO_COLOR"])
def test_what_the_terminal_cannot_or_should_not(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(variable, "dumb" if variable == "TERM" else "1")
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    run(console)
    if variable == "TERM":
        assert "\x1b" not in text(console) and "iter 10/100" in text(console)
    else:
        assert "\x1b[3" not in text(console)  # no colours; the bar still updates in place


def test_losses_of_several_heads_are_told_apart() -> None:
    console = piped()
    values = {
        "loss": 4.0, "decode.loss_ce": 0.5, "aux_0.loss_ce": 0.25, "aux_1.loss_ce": 0.125, "decode.loss_dice": 0.75,
        "distill.loss_logits": 0.5, "decode.acc_seg": 90.0, "raw/logits": 2.0, "raw/loss_x": 2.0, "weight/loss_x": 9.0,
    }  # fmt: skip
    with RunConsole(console) as shown:
        shown.training_started(first_iteration=0, last_iteration=10, facts={})
        shown.stepped(10, values)
        shown.training_started(first_iteration=0, last_iteration=10, facts={})
        shown.stepped(10, {"loss": 1.0, "decode.loss_ce.s0": 0.5, "decode.loss_ce.s1": 0.25, "distill.loss_ce": 0.5})
    several, stages = text(console).splitlines()
    assert several.endswith("  loss 4  decode.ce 0.5  aux_0.ce 0.25  aux_1.ce 0.125  dice 0.75  logits 0.5")
    assert stages.endswith("  loss 1  ce.s0 0.5  ce.s1 0.25  ce 0.5")
