"""Seconds of a teacher's forward pass: each way that rdistill may choose when it starts, against the plain way.

python -m benchmarks.teacher_forward [--pair r50-r18|r101-r18|slim|...] [--batch-size 4] [--size 128] [--pairs 9]

It first asserts that all ways give the same logits within 1e-4. About 1 minute for a full pair.
"""

from __future__ import annotations

from functools import partial

import torch

from benchmarks.turns import endless_run, in_turn, parser_of, print_table, timed, workbench
from rdistill.config.distill_spec import PLAIN, ForwardSpec, TeacherSpec
from rdistill.distill.teacher import Teacher, load_teacher_model
from rdistill.distill.teacher_forward import LOGIT_TOLERANCE

LOGITS = "decode_head"  # the feature's name
WAYS = (
    ForwardSpec(fuse=True),
    ForwardSpec(channels_last=True),
    ForwardSpec(fuse=True, channels_last=True),
)


def teacher_of(spec: TeacherSpec, forward: ForwardSpec) -> Teacher:
    model = load_teacher_model(spec)
    return Teacher(model, [LOGITS], model.data_preprocessor, 1.0, forward)


def main() -> None:
    """Compares, times, and prints a table."""
    parser = parser_of(__doc__, "r50-r18", pairs=9)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--size", type=int, default=128, help="pixels")
    args = parser.parse_args()
    with workbench() as folder:
        spec = TeacherSpec(**endless_run(args.pair, folder).distill.teachers[0].to_dict())
        images_nchw = torch.randn(args.batch_size, 3, args.size, args.size)

        def seconds(teacher: Teacher) -> float:
            return timed(lambda: teacher(images_nchw), args.clock)

        plain = teacher_of(spec, PLAIN)
        expected = plain(images_nchw)[LOGITS]
        for way in WAYS:
            teacher = teacher_of(spec, way)
            for _ in range(2):  # the first call prepares the model
                far = (teacher(images_nchw)[LOGITS] - expected).abs().max().item()
            assert far <= LOGIT_TOLERANCE, (way, far)
            timings = in_turn(partial(seconds, teacher), partial(seconds, plain), args.pairs)
            facts = dict(pair=args.pair, way=str(way), difference=f"{far:.0e}")
            print_table("teacher's forward / the plain one", ("this way", "plain"), timings, **facts)


if __name__ == "__main__":
    main()
