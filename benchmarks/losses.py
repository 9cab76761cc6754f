"""Time and memory of every loss, forward and backward at full size, against its formula in plain PyTorch.

python -m benchmarks.losses [--losses KL L2 ...] [--shrink 1] [--pairs 3]

The plain code is the leanest that we know: PyTorch's own function if it has one, otherwise the authors' formula in the
fewest operations. Logits are 4 x 19 x 512 x 1,024 with a mask of the labelled pixels, features 4 x 512 x 64 x 128. The
plain code has no mask, so rdistill does more. Values and gradients are compared before anything is timed. Memory is the
peak of what PyTorch's allocator holds beyond the two inputs, the student's gradient included, in units of the student's
tensor; the profiler counts it, so it is exact. Times are processor seconds of this process, or seconds of the wall
clock with --wall. About 10 minutes on one thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.memory import peak_bytes
from benchmarks.turns import in_turn, print_machine
from rdistill.losses import functional as L

CLASSES, GRID, KEYS = 19, 16, 1024
Plain = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """Two ways to compute a loss of student, teacher and label."""

    on: str
    rdistill: Plain
    plain: Plain


# ---------------------------------------------------------------------------------------------------------
# The plain code: each formula in the fewest operations that PyTorch has for it, without ignored pixels


def plain_kl(s: Tensor, t: Tensor, label: Tensor) -> Tensor:
    return F.kl_div(F.log_softmax(s, 1), F.softmax(t, 1), reduction="sum") / label.numel()


def plain_cwd(s: Tensor, t: Tensor, label: Tensor) -> Tensor:
    s, t = (x.flatten(2) / 4 for x in (s, t))
    return 16 * F.kl_div(F.log_softmax(s, 2), F.softmax(t, 2), reduction="sum") / (s.shape[0] * s.shape[1])


def plain_dist(s: Tensor, t: Tensor, label: Tensor) -> Tensor:
    """As its authors publish it: rows of pixels, then their transpose."""
    s, t = (x.transpose(1, 3).reshape(-1, x.shape[1]).softmax(1) for x in (s, t))

    def distance(s: Tensor, t: Tensor) -> Tensor:
        s, t = (x - x.mean(1, keepdim=True) for x in (s, t))
        return 1 - ((s * t).sum(1) / (s.norm(dim=1) * t.norm(dim=1) + 1e-8)).mean()

    return distance(s, t) + distance(s.T, t.T)


def plain_dkd(s: Tensor, t: Tensor, label: Tensor) -> Tensor:
    """As its authors publish it: the target's class is pushed out of the softmax by a large number."""
    s, t = s / 4, t / 4
    target = F.one_hot(label, CLASSES).movedim(3, 1)
    p_s, p_t = (F.softmax(x, 1) for x in (s, t))
    own_s, own_t = ((p * target).sum(1) for p in (p_s, p_t))
    binary_s, binary_t = (torch.stack([own, 1 - own], 1) for own in (own_s, own_t))
    target_part = F.kl_div(binary_s.log(), binary_t, reduction="sum")
    others_s, others_t = (x - 1000.0 * target for x in (s, t))
    others_part = F.kl_div(F.log_softmax(others_s, 1), F.softmax(others_t, 1), reduction="sum")
    return 16 * (target_part + 8 * others_part) / label.numel()


def plain_bpkd(s: Tensor, t: Tensor, label: Tensor) -> Tensor:
    nearby = label.float().unsqueeze(1)
    edge = (F.max_pool2d(nearby, 5, 1, 2) > -F.max_pool2d(-nearby, 5, 1, 2)).float()
    per_pixel = F.kl_div(F.log_softmax(s, 1), F.softmax(t, 1), reduction="none").sum(1, keepdim=True)
    s, t = ((x / 4).masked_fill(edge.bool(), -1e30).flatten(2) for x in (s, t))
    body = 16 * F.kl_div(F.log_softmax(s, 2), F.softmax(t, 2), reduction="sum") / (s.shape[0] * s.shape[1])
    return (per_pixel * edge).sum() / edge.sum() + body


def plain_attention(x: Tensor) -> Tensor:
    return F.normalize(x.pow(2).mean(1).flatten(1))


def plain_at(s: Tensor, t: Tensor, label: Tensor) -> Tensor:
    return (plain_attention(s) - plain_attention(t)).pow(2).sum(1).mean()


def plain_dsd(s: Tensor, t: Tensor, label: Tensor) -> Tensor:
    def gram(x: Tensor) -> Tensor:
        p = F.softmax(x.flatten(2) / 4, 2)
        return p.shape[2] * torch.bmm(p, p.transpose(1, 2))

    return plain_at(s, t, label) + F.mse_loss(gram(s), gram(t))


def plain_pkd(s: Tensor, t: Tensor, label: Tensor) -> Tensor:
    def standardised(x: Tensor) -> Tensor:
        x = x.transpose(0, 1).flatten(1)
        return (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True, unbiased=False) + 1e-6)

    return F.mse_loss(standardised(s), standardised(t)) / 2


def plain_skd(s: Tensor, t: Tensor, label: Tensor) -> Tensor:
    def cosines(x: Tensor) -> Tensor:
        size = (x.shape[2] // GRID, x.shape[3] // GRID)
        cells = F.normalize(F.max_pool2d(x, size, size).flatten(2))
        return torch.bmm(cells.transpose(1, 2), cells)

    return F.mse_loss(cosines(s), cosines(t))


def plain_ifvd(s: Tensor, t: Tensor, label: Tensor) -> Tensor:
    """As its authors publish it: a map of the class centres, class by class."""
    label = L.resize_nearest(label, s.shape[2:]).unsqueeze(1)

    def similarity(x: Tensor) -> Tensor:
        centres = x.clone()
        for number in range(CLASSES):
            own = (label == number).float()
            centre = (own * x).sum((2, 3), keepdim=True) / (own.sum((2, 3), keepdim=True) + 1e-6)
            centres = (1 - own) * centres + own * centre
        return F.cosine_similarity(x, centres)

    return F.mse_loss(similarity(s), similarity(t))


def plain_cirkd(s: Tensor, t: Tensor, label: Tensor) -> Tensor:
    """As its authors publish it, on cells as rdistill has them."""
    s, t = (F.normalize(F.adaptive_avg_pool2d(x, GRID)).flatten(2) for x in (s, t))
    total = s.new_zeros(())
    for i in range(len(s)):
        for j in range(len(s)):
            log_p, p = F.log_softmax(s[i].T @ s[j] / 0.1, 1), F.softmax(t[i].T @ t[j] / 0.1, 1)
            total = total + F.kl_div(log_p, p, reduction="batchmean")
    return total / len(s) ** 2


def keys_of(x: Tensor) -> Tensor:
    return F.normalize(torch.randn(KEYS, x.shape[1], generator=torch.Generator().manual_seed(2)))


def memory(s: Tensor, t: Tensor, label: Tensor) -> Tensor:
    return L.cirkd_memory(s, t, keys_of(s), grid=64)


def plain_memory(s: Tensor, t: Tensor, label: Tensor) -> Tensor:
    s, t = (F.normalize(L.resize_nearest(x, L.grid_size(x, 64))).movedim(1, 3).flatten(0, 2) for x in (s, t))
    keys = keys_of(s)
    return F.kl_div(F.log_softmax(s @ keys.T / 0.1, 1), F.softmax(t @ keys.T / 0.1, 1), reduction="batchmean")


def plain_wkdf(s: Tensor, t: Tensor, label: Tensor) -> Tensor:
    def moments(x: Tensor) -> tuple[Tensor, Tensor]:
        mean = F.adaptive_avg_pool2d(x, 4)
        return mean, (F.adaptive_avg_pool2d(x.square(), 4) - mean.square() + 1e-8).sqrt()

    (mean_s, deviation_s), (mean_t, deviation_t) = moments(s), moments(t)
    return (2 * F.mse_loss(mean_s, mean_t) + F.mse_loss(deviation_s, deviation_t)) * s.shape[1]


def plain_hcl(s: Tensor, t: Tensor, label: Tensor) -> Tensor:
    """As its authors publish it."""
    value = F.mse_loss(s, t)
    for k, cells in enumerate((4, 2, 1), start=1):
        value = value + F.mse_loss(F.adaptive_avg_pool2d(s, cells), F.adaptive_avg_pool2d(t, cells)) / 2**k
    return value / 1.875


def plain_cosine(s: Tensor, t: Tensor, label: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(s, t).mean()


def plain_theia(s: Tensor, t: Tensor, label: Tensor) -> Tensor:
    return 0.9 * plain_cosine(s, t, label) + 0.1 * F.smooth_l1_loss(s, t)


def plain_contrast(s: Tensor, t: Tensor, label: Tensor) -> Tensor:
    """Cells by unfolding, then the distances within a patch; a group of channels is not compared with itself."""
    groups, patch, tau = 16, 4, 0.07

    def cells(x: Tensor) -> Tensor:
        size = (x.shape[2] // GRID, x.shape[3] // GRID)
        x = F.unfold(F.max_pool2d(x, size, size), patch, stride=patch)  # N x C * patch^2 x patches
        return x.unflatten(1, (groups, -1, patch**2)).permute(0, 4, 3, 1, 2).flatten(0, 1).flatten(1, 2)

    distances = -torch.cdist(cells(s), cells(t), p=1) / tau
    group = torch.arange(distances.shape[1]) % groups
    own = (group[:, None] == group[None]) & ~torch.eye(len(group), dtype=torch.bool)
    return F.cross_entropy(
        distances.masked_fill(own, -torch.inf).flatten(0, 1), torch.arange(len(group)).repeat(len(distances))
    )


def with_mask(function: Callable[..., Tensor]) -> Plain:
    return lambda s, t, label: function(s, t, mask=label != 255)


def alone(function: Callable[..., Tensor]) -> Plain:
    return lambda s, t, label: function(s, t)


def labelled(function: Callable[..., Tensor]) -> Plain:
    return partial(function, num_classes=CLASSES)


CASES = {
    "KL": Case("logits", with_mask(L.kl), plain_kl),
    "CWD": Case("logits", with_mask(L.cwd), plain_cwd),
    "DIST": Case("logits", with_mask(L.dist), plain_dist),
    "DKD": Case("logits", L.dkd, plain_dkd),
    "DSD": Case("logits", with_mask(L.dsd), plain_dsd),
    "L1": Case("logits", with_mask(L.l1), alone(F.l1_loss)),
    "L2": Case("logits", with_mask(L.l2), alone(F.mse_loss)),
    "Cosine": Case("logits", with_mask(L.cosine), plain_cosine),
    "BPKD": Case("logits", labelled(L.bpkd), plain_bpkd),
    "SKD": Case("features", alone(L.skd_pairwise), plain_skd),
    "IFVD": Case("features", labelled(L.ifvd), plain_ifvd),
    "CIRKD": Case("features", alone(L.cirkd_pairs), plain_cirkd),
    "CIRKDMemory": Case("features", memory, plain_memory),
    "AT": Case("features", alone(L.at), plain_at),
    "FitNet": Case("features", alone(L.fitnet), alone(F.mse_loss)),
    "MGD": Case("features", alone(L.mgd), lambda s, t, label: F.mse_loss(s, t) * s.shape[1]),
    "PKD": Case("features", alone(L.pkd), plain_pkd),
    "WKDF": Case("features", alone(L.wkdf), plain_wkdf),
    "HCL": Case("features", alone(L.hcl), plain_hcl),
    "Theia": Case("features", alone(L.theia), plain_theia),
    "AfDCD": Case("features", alone(L.omni_contrast), plain_contrast),
}


def inputs(on: str, shrink: int) -> tuple[Tensor, Tensor, Tensor]:
    """A student that resembles its teacher, and a label of blocks without ignored pixels."""
    generator = torch.Generator().manual_seed(0)
    shape = (4, CLASSES, 512 // shrink, 1024 // shrink) if on == "logits" else (4, 512, 64 // shrink, 128 // shrink)
    teacher = 2 * torch.randn(shape, generator=generator)
    student = (teacher + torch.randn(shape, generator=generator)).requires_grad_()
    label = torch.randint(0, CLASSES, (4, 16, 32), generator=generator)
    return student, teacher, L.resize_nearest(label, (512 // shrink, 1024 // shrink))


def step(way: Plain, student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
    student.grad = None
    loss = way(student, teacher, label)
    loss.backward()
    return loss.detach()


def seconds_of(clock: Callable[[], float], way: Plain, *batch: Tensor) -> float:
    since = clock()
    step(way, *batch)
    return clock() - since


def peak_of_step(way: Plain, student: Tensor, teacher: Tensor, label: Tensor) -> int:
    """The most that was allocated at once during a step; see the module's docstring."""
    student.grad = None
    return peak_bytes(lambda: way(student, teacher, label).backward())


def compare(name: str, case: Case, batch: tuple[Tensor, Tensor, Tensor]) -> None:
    """The same value and gradient, or there is nothing to time."""
    gradients, values = [], []
    for way in (case.rdistill, case.plain):
        values.append(step(way, *batch).item())
        assert batch[0].grad is not None
        gradients.append(batch[0].grad)
    apart = (gradients[0] - gradients[1]).norm() / gradients[1].norm()
    assert abs(values[0] - values[1]) < 2e-4 * abs(values[1]) and apart < 2e-3, (name, values, apart)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--losses", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--shrink", type=int, default=1, help="height and width are divided by this")
    parser.add_argument(
        "--wall", action="store_true", help="seconds of the wall clock, for a machine with nothing else"
    )
    parser.add_argument("--pairs", type=int, default=3, help="how often both are timed, in turn")
    args = parser.parse_args()
    print_machine()
    columns = "loss, on, rdistill s, plain s, time ratio, min, max, rdistill memory, plain memory, memory ratio, pairs"
    print(f"| {columns.replace(', ', ' | ')} |\n|{'---|' * 11}", flush=True)
    for name in args.losses:
        case = CASES[name]
        batch = inputs(case.on, args.shrink)
        compare(name, case, batch)
        ways = (case.rdistill, case.plain)
        clock = time.perf_counter if args.wall else time.process_time
        rdistill, plain = (partial(seconds_of, clock, way, *batch) for way in ways)
        timings = in_turn(rdistill, plain, args.pairs)
        seconds = [f"{statistics.median(column):.3f}" for column in zip(*timings, strict=True)]
        ratios = sorted(left / right for left, right in timings)
        peaks = [peak_of_step(way, *batch) / batch[0].nbytes for way in ways]
        cells = [name, case.on, *seconds, *(f"{x:.2f}" for x in (statistics.median(ratios), ratios[0], ratios[-1]))]
        cells += [*(f"{x:.2f}" for x in (*peaks, peaks[0] / peaks[1])), str(len(timings))]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
