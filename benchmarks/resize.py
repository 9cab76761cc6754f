"""Times the gradient of the losses' bilinear resizing against that of torch.nn.functional.interpolate.

python -m benchmarks.resize small|classes|large [--pairs 20]

Logits of 4 images become as large as their labels. small and classes: 2 and 11 classes of 16 x 16 become 128 x 128;
large: 19 classes of 64 x 128 become 512 x 1,024. The same gradient comes in, and only the backward pass is timed.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.turns import CLOCKS, in_turn, print_table, timed
from rdistill.losses.resize import resize_bilinear

CASES = {
    "small": ((4, 2, 16, 16), (128, 128)),
    "classes": ((4, 11, 16, 16), (128, 128)),
    "large": ((4, 19, 64, 128), (512, 1024)),
}


def seconds(shape: tuple[int, ...], size: tuple[int, int], pairs: int, clock: str) -> list[tuple[float, float]]:
    """Seconds of our backward passes and of PyTorch's; as many of each in a timing as fill a few milliseconds."""
    x = torch.randn(shape, requires_grad=True)
    upstream = torch.randn(*shape[:2], *size)
    ours, theirs = resize_bilinear(x, size), F.interpolate(x, size, mode="bilinear", align_corners=False)
    repeats = max(1, 10_000_000 // upstream.numel())

    def backward(resized: Tensor) -> None:
        for _ in range(repeats):
            torch.autograd.grad(resized, x, upstream, retain_graph=True)

    return in_turn(lambda: timed(lambda: backward(ours), clock), lambda: timed(lambda: backward(theirs), clock), pairs)


def main() -> None:
    """Times, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="wall: seconds; cpu: processor seconds")
    parser.add_argument("--pairs", type=int, default=20, help="how often both are measured")
    args = parser.parse_args()
    shape, size = CASES[args.case]
    timings = seconds(shape, size, args.pairs, args.clock)
    before, after = (" x ".join(map(str, part)) for part in (shape, size))
    print_table(f"gradient of {before} to {after}", ("rdistill", "PyTorch"), timings, clock=args.clock)


if __name__ == "__main__":
    main()
