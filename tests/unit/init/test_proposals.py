"""What is proposed for a machine and data: size and batch, length and scale, weights of rare classes."""

from __future__ import annotations

from rdistill.init import proposals
from rdistill.init.proposals import Machine, StepCost

GB = 10**9


def test_size_and_batch_are_what_memory_holds() -> None:
    """1 GB for 2 images of 128 pixels: at 256, 4 images take 8 GB; at 512, 32 GB."""
    model = StepCost(size=128, batch=2, fixed_bytes=0, activation_bytes=GB, seconds=0.1)
    for free, size, batch in ((100, 512, 8), (45, 512, 4), (20, 352, 4), (11, 256, 4)):
        machine = Machine("cuda", free * GB)
        assert proposals.propose_size(600, [model], machine)[0] == size, free
        assert proposals.propose_batch(size, 100, [model], machine)[0] == batch
    assert proposals.propose_size(200, [model], Machine("cuda", 100 * GB))[0] == 192


def test_on_a_cpu_time_counts_too() -> None:
    model = StepCost(
        size=128, batch=2, fixed_bytes=0, activation_bytes=10**6, seconds=0.5
    )  # 4 images of 128 pixels: 1 s
    size, why = proposals.propose_size(600, [model], Machine("cpu", 100 * GB))
    assert size == 160 and why == "a batch of 4 at 192 would take more than 50 GB (50 % of what is free) and 2 s"


def test_length_and_scale() -> None:
    machine = Machine("cpu", GB)
    assert [proposals.propose_iters(images, 4, machine) for images in (10, 200, 10_000)] == [1000, 2000, 4000]
    assert proposals.test_scale({(240, 180): 3}, 128) == (171, 128)
    assert proposals.test_scale({(180, 240): 3}, 128) == (128, 171)
    assert proposals.test_scale({(1000, 100): 3}, 128) == (384, 128)


def test_weights_where_a_class_is_rare() -> None:
    assert proposals.class_weights([96, 4]) is None
    assert proposals.class_weights([98, 2]) == (1.0, 7.0)
    assert proposals.class_weights([9998, 2]) == (1.0, 10.0)
    assert proposals.class_weights([10] * 150) is None
    assert proposals.class_weights([100, 0]) is None  # what is absent needs masks, not a weight
