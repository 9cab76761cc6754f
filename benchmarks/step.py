"""Seconds of a training step: rdistill, with its Runner and all hooks, against a loop written by hand in PyTorch.

python -m benchmarks.step [--pair r50-r18|slim|...] [--iterations 2] [--pairs 5]

Both have the same models, weights, losses, optimizer and batches: the losses of the first iterations are compared
before anything is timed. About 2 minutes for a full pair, 1 for the slim one.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.runner import Runner
from torch import Tensor, nn

from benchmarks.turns import SteppedRun, endless_run, in_turn, parser_of, print_table, timed, workbench
from rdistill.config.distill_spec import TeacherSpec
from rdistill.config.load import with_overrides
from rdistill.distill.teacher import load_teacher_model
from rdistill.models.checkpoint import load_file
from rdistill.models.segmentor import build_segmentor
from rdistill.training.runner import prepare_config

WARM_UP = 3  # iterations, in which both must compute the same losses
# The two draw dropout from different random streams; without dropout their losses must be equal.
SAME = {"model.decode_head.dropout_ratio": 0.0}


class ByHand:
    """A training loop written by hand for a single pair.

    Args:
        cfg: the config of the run that it is compared with.
        student: the student, with its initial weights.
        batches: mmseg's batches, endlessly.
    """

    def __init__(self, cfg: Config, student: nn.Module, batches: Iterator[dict]) -> None:
        spec = TeacherSpec(**cfg.distill.teachers[0].to_dict())
        self.student, self.teacher = student.train(), load_teacher_model(spec).eval().requires_grad_(False)
        self.batches, self.losses, self.iteration = batches, list[float](), 0
        self.loss, self.schedule = cfg.distill.losses.logits, cfg.param_scheduler[0]
        self.lr = cfg.optim_wrapper.optimizer.lr
        arguments = {key: value for key, value in cfg.optim_wrapper.optimizer.items() if key != "type"}
        self.optimizer = torch.optim.SGD(student.parameters(), **arguments)
        preprocessor = student.data_preprocessor
        self.mean, self.std = preprocessor.mean, preprocessor.std

    def step(self, iterations: int = 1) -> None:
        for _ in range(iterations):
            batch = next(self.batches)
            images = torch.stack([image[[2, 1, 0]] for image in batch["inputs"]]).float()
            images = (images - self.mean) / self.std
            label = torch.cat([sample.gt_sem_seg.data for sample in batch["data_samples"]])
            with torch.no_grad():
                teacher_logits = self._logits(self.teacher, images)
            student_logits = self._logits(self.student, images)
            loss = F.cross_entropy(student_logits, label, ignore_index=255) + self._kl(
                student_logits, teacher_logits, label
            )
            self.optimizer.zero_grad()
            loss.backward()
            share = (1 - self.iteration / (self.schedule.end - self.schedule.begin)) ** self.schedule.power
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr * share
            self.optimizer.step()
            self.losses.append(loss.item())
            self.iteration += 1

    def _kl(self, student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
        """KL with temperature 1 over the labelled pixels, divided by the number of classes, as PaddleSeg does."""
        student, teacher = F.log_softmax(student, 1), F.log_softmax(teacher, 1)
        per_pixel = F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)
        return self.loss.weight * per_pixel[label != 255].mean() / student.shape[1]

    @staticmethod
    def _logits(model: nn.Module, images: Tensor) -> Tensor:
        logits = model.decode_head(model.backbone(images))
        return F.interpolate(logits, images.shape[2:], mode="bilinear", align_corners=False)


def by_hand(cfg: Config, folder: Path, start: Path) -> ByHand:
    student = build_segmentor(cfg.model)
    student.load_state_dict(load_file(start)["state_dict"])
    loader = prepare_config(cfg, folder / "by-hand", seed=0, last=None).train_dataloader
    return ByHand(cfg, student, iter(Runner.build_dataloader(loader.to_dict(), seed=0)))


def main() -> None:
    """Compares, times, and prints a table."""
    parser = parser_of(__doc__, "r50-r18")
    parser.add_argument("--iterations", type=int, default=2, help="iterations of one timing")
    args = parser.parse_args()
    with workbench() as folder:
        cfg = with_overrides(endless_run(args.pair, folder), SAME)
        start = folder / "start.pth"
        torch.save({"state_dict": build_segmentor(cfg.model).state_dict()}, start)
        cfg.load_from = str(start)
        run, bare = SteppedRun(cfg, folder / "run"), by_hand(cfg, folder, start)
        run.step(WARM_UP - 1)
        bare.step(WARM_UP)
        for ours, by_hand_loss in zip(run.losses, bare.losses, strict=True):
            assert abs(ours.item() - by_hand_loss) < 1e-4 * max(1.0, abs(by_hand_loss)), (run.losses, bare.losses)
        timings = in_turn(
            lambda: timed(partial(run.step, args.iterations), args.clock) / args.iterations,
            lambda: timed(partial(bare.step, args.iterations), args.clock) / args.iterations,
            args.pairs,
        )
        print_table("step / by hand", ("rdistill", "by hand"), timings, pair=args.pair)


if __name__ == "__main__":
    main()
