"""What the store of views saves and what it costs.

python -m benchmarks.store step [--pair r50-r18|r50-fast-scnn|slim] [--pairs 10] [--steps 1]
python -m benchmarks.store fill [--pair r50-r18] [--pairs 5] [--bits 32]
python -m benchmarks.store confirm [--pair r50-fast-scnn] [--passes 4]

Images of 128 pixels in random crops, 4 a step, logits in 16 bits. step: a distilled step whose teacher outputs are all
stored, against a step of the student alone on the same views. fill: a teacher that fills a store, against the same
teacher without a store. With 32 bits, the first few batches of a process are not counted, because they are computed
both singly and together. confirm: two configurations and the student alone, each on five seeds, trained seed by seed in
cohorts that share the teacher, as in the confirmation of a sweep: with a store that is empty at first, against no
store. Loading and building are not counted. `benchmarks.store_errors` measures what fewer bits and classes change.
"""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from benchmarks.turns import ENDLESS, SteppedRun, endless_run, in_turn, parser_of, print_table, timed, workbench
from rdistill.config.distill_spec import FUSED
from rdistill.config.load import LoadedConfig, with_overrides
from rdistill.data.synthetic import generate
from rdistill.distill.teacher import Teacher, load_teacher_model, make_store
from rdistill.distill.teacher_store import EQUAL_BATCHES_NEEDED
from rdistill.training.lockstep import Lane, Lockstep
from rdistill.training.run import train

IMAGES, VIEWS, SEEDS, BATCH = 8, 2, 5, 4
FILL_IMAGES = 8  # images in one timing of `fill`


def crop_config(pair: str, folder: Path, **store: Any) -> Config:
    """The pair's config on few images of 160 pixels, in random crops of 128."""
    data = folder / "many"
    if not data.is_dir():
        generate(data, num_train=IMAGES, num_val=4, size=160)
    cfg = endless_run(pair, folder, data)
    section = {"views": VIEWS, "dir": str(folder / "kept"), **store}
    cfg = with_overrides(cfg, {"distill.cache": "auto", "distill.store": section})
    cfg.train_dataloader.dataset.pipeline = [
        dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), dict(type="RandomCrop", crop_size=(128, 128)),
        dict(type="RandomFlip", prob=0.5), dict(type="PhotoMetricDistortion"), dict(type="PackSegInputs"),
    ]  # fmt: skip
    return cfg


def steps(pair: str, folder: Path, pairs: int, count: int, clock: str) -> list[tuple[float, float]]:
    """Seconds of ``count`` distilled steps and of ``count`` plain ones, after all views have been stored."""
    distilled_cfg = crop_config(pair, folder)
    plain_cfg = LoadedConfig.of(distilled_cfg).without_distillation().cfg
    distilled, plain = SteppedRun(distilled_cfg, folder / "distilled"), SteppedRun(plain_cfg, folder / "plain")
    distilled.step(IMAGES * VIEWS // BATCH + 1)
    plain.step(2)
    return in_turn(
        lambda: timed(lambda: distilled.step(count), clock), lambda: timed(lambda: plain.step(count), clock), pairs
    )


def fill(pair: str, folder: Path, pairs: int, clock: str, bits: int) -> list[tuple[float, float]]:
    """Seconds of a teacher that fills a store, and of the same teacher without a store."""
    spec = LoadedConfig.of(crop_config(pair, folder, bits=bits)).distillation.teacher(0)
    spec = spec.model_copy(update={"forward": FUSED})
    model = load_teacher_model(spec)
    without = Teacher(model, ["decode_head"], model.data_preprocessor, 1.0, FUSED, spec.features or ())
    filling = copy.copy(without)
    filling.store = make_store(model, spec, folder / "run", model.data_preprocessor)
    batches = torch.randn(FILL_IMAGES, 3, 128, 128).split(BATCH)
    without(batches[0])
    names = (f"view {number}" for number in range(ENDLESS))

    def fills() -> None:
        for batch in batches:
            filling(batch, [next(names) for _ in batch])

    def computes() -> None:
        for batch in batches:
            without(batch)

    for _ in range(EQUAL_BATCHES_NEEDED):
        fills()
    return in_turn(lambda: timed(fills, clock), lambda: timed(computes, clock), pairs)


def confirmation(pair: str, folder: Path, passes: int, clock: str) -> tuple[float, float]:
    """Seconds of the steps of all runs, with and without a store, alternating seed by seed."""
    stored = crop_config(pair, folder)
    without = with_overrides(stored, {"distill.store.keep": "nothing"})
    spent = [0.0, 0.0]
    for seed in range(SEEDS):
        for which in (0, 1) if seed % 2 else (1, 0):
            cfg = (stored, without)[which]
            spent[which] += one_seed(cfg, folder / f"{which}-{seed}", seed, passes * IMAGES // BATCH, clock)
    return spent[0], spent[1]


def one_seed(cfg: Config, folder: Path, seed: int, iterations: int, clock: str) -> float:
    """Seconds of a cohort's steps from the second on, because the first includes the set-up."""
    configs = {
        "light": cfg,
        "heavy": with_overrides(cfg, {"distill.losses.logits.weight": 6.0}),
        "alone": LoadedConfig.of(cfg).without_distillation().cfg,
    }
    lockstep, left = Lockstep(), {name: iterations for name in configs}
    for name, run_cfg in configs.items():
        run_cfg = copy.deepcopy(run_cfg)
        run_cfg.train_cfg.max_iters = run_cfg.train_cfg.val_interval = iterations

        def run(lane: Lane, run_cfg: Config = run_cfg, name: str = name) -> None:
            train(run_cfg, folder / name, seed=seed, teacher_metrics=[{}], lane=lane, check=False)
            left.pop(name)

        lockstep.join(name, run)
    lockstep.step()
    seconds = 0.0
    for _ in range(iterations - 2):  # the last step includes the validation
        seconds += timed(functools.partial(lockstep.step), clock)
    while left and lockstep.step():
        pass
    return seconds


def main() -> None:
    """Times, and prints a table."""
    parser = parser_of(__doc__, "r50-r18", pairs=5)
    parser.add_argument("what", choices=("step", "fill", "confirm"))
    parser.add_argument("--steps", type=int, default=1, help="of `step` in one timing; the clock counts 0.01 s")
    parser.add_argument("--bits", type=int, default=16, choices=(8, 16, 32), help="of `fill`, that a number is kept in")
    parser.add_argument("--passes", type=int, default=4, help="of each run of `confirm` over its images")
    args = parser.parse_args()
    facts = dict(pair=args.pair, clock=args.clock)
    with workbench() as folder:
        if args.what == "step":
            timings = steps(args.pair, folder, args.pairs, args.steps, args.clock)
            facts["steps"] = args.steps
            print_table("step from a warm store / the student's own", ("stored", "alone"), timings, **facts)
        elif args.what == "fill":
            timings = fill(args.pair, folder, args.pairs, args.clock, args.bits)
            facts["bits"] = args.bits
            print_table(f"{FILL_IMAGES} images filled / without a store", ("filling", "without"), timings, **facts)
        else:
            timings = [confirmation(args.pair, folder, args.passes, args.clock)]
            facts["passes"] = args.passes
            print_table(f"2 configurations x {SEEDS} seeds, store / none", ("store", "none"), timings, **facts)


if __name__ == "__main__":
    main()
