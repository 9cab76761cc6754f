"""How large the gradients of a step's losses are, and at which tensors: nothing of the step is changed by it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from rdistill.distributed import collectives
from rdistill.losses.functional import without_autocast

DISTILL_PREFIX = "distill."  # begins the keys of weighted distillation losses
# Factors on a loss in float16, whose gradients vanish below 6e-8 and overflow above 65,504: the first that fits counts.
HALF_SCALES = (2.0**16, 2.0**12, 2.0**8, 2.0**4, 1.0)


def task_loss(losses: Mapping[str, Any]) -> Tensor:
    """The sum of the student's own losses in a step's, as mmengine adds them up: each is a tensor or a list."""
    own = (value for key, value in losses.items() if "loss" in key and not key.startswith(DISTILL_PREFIX))
    parts = [item.mean() for value in own for item in (value if isinstance(value, list) else [value])]
    return torch.stack(parts).sum()


def gradients(loss: Tensor, inputs: Sequence[Any], factor: float = 1.0) -> list[Tensor | None]:
    """Of a loss times a factor, with respect to tensors or edges; None where it does not depend on one.

    The graph stays for the step's own backward pass, and no parameter's ``grad`` is touched.
    """
    if not loss.requires_grad or not inputs:
        return [None] * len(inputs)
    with without_autocast(loss.device.type):
        start = [torch.full_like(loss, factor)]
        return list(torch.autograd.grad(loss, inputs, start, retain_graph=True, allow_unused=True))


def last_shared(task: Tensor, term: Tensor) -> list[GradientEdge]:
    """The last tensors that two losses of one step both depend on: none of them is computed from another such tensor.

    For a loss on logits these are the head's logits, for one on a feature that feature, if the task's loss depends on
    it; otherwise the nearest tensors before it that both do. Trained weights count only where there is nothing else.
    A tensor that a later layer has written into counts as it was before.

    Returns:
        Edges of the graph, for which autograd gives gradients as for a tensor; none where the two share nothing.
    """
    if task.grad_fn is None or term.grad_fn is None:
        return []
    of_task = _edges(GradientEdge(task.grad_fn, 0))
    shared: dict[GradientEdge, None] = {}
    _edges(GradientEdge(term.grad_fn, 0), of_task, shared)
    computed = [edge for edge in shared if not hasattr(edge.node, "variable")]  # a leaf's node has the leaf
    return computed or list(shared)


def _edges(
    start: GradientEdge, stop_at: Iterable[GradientEdge] = (), met: dict[GradientEdge, None] | None = None
) -> dict[GradientEdge, None]:
    """Every edge of the graph behind one, each once; not past those of ``stop_at``, which are put into ``met``."""
    seen: dict[GradientEdge, None] = {}
    to_see = [start]
    while to_see:
        edge = to_see.pop()
        if edge in seen:
            continue
        seen[edge] = None
        if met is not None and edge in stop_at:
            met[edge] = None
            continue
        to_see += [GradientEdge(node, number) for node, number in edge.node.next_functions if node is not None]
    return seen


def lengths_at_last_shared(task: Tensor, terms: Mapping[str, Tensor]) -> dict[str, tuple[float, float]]:
    """Name -> Euclidean lengths of the task loss's gradient and of that term's, at the last tensors that they share.

    Of the whole batch of all workers, which must call this together, but for one factor that both lengths have. Waits
    for the device. Zero where a loss has no gradient there; NaN or infinite where it is too large for float16.
    """
    shared = {name: last_shared(task, term) for name, term in terms.items()}
    every = list(dict.fromkeys(edge for edges in shared.values() for edge in edges))
    of_task = dict(zip(every, _squares(task, every), strict=True))
    pairs = []
    for name, term in terms.items():
        own = _squares(term, shared[name])
        pairs.append(torch.stack([_sum([of_task[edge] for edge in shared[name]], task), _sum(own, task)]))
    lengths = torch.stack(pairs).sqrt().tolist()
    return {name: (pair[0], pair[1]) for name, pair in zip(terms, lengths, strict=True)}


def _squares(loss: Tensor, edges: Sequence[GradientEdge]) -> list[Tensor]:
    """Squared lengths of a loss's gradients, in float64, each the mean over workers."""
    if not edges:
        return []
    device = loss.device.type
    half = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
    for factor in HALF_SCALES if half else (1.0,):
        own = [
            loss.new_zeros((), dtype=torch.float64)
            if gradient is None
            else torch.linalg.vector_norm(gradient.detach(), dtype=torch.float64).square()
            for gradient in gradients(loss, edges, factor)
        ]
        squares = collectives.mean(torch.stack(own)) / factor**2
        if not half or squares.isfinite().all():  # the same on all workers
            break
    return list(squares.unbind())


def _sum(values: Sequence[Tensor], like: Tensor) -> Tensor:
    return torch.stack([like.new_zeros((), dtype=torch.float64), *values]).sum()
