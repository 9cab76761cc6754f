"""Measures the gradients of a training step's losses without changing the step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from rdistill.distributed import collectives
from rdistill.losses.functional import without_autocast

DISTILL_PREFIX = "distill."  # prefix of the keys of weighted distillation losses
# Scale factors for a loss under float16 autocast, whose gradients vanish below 6e-8 and overflow above 65,504. The
# first factor without an overflow is used.
HALF_SCALES = (2.0**16, 2.0**12, 2.0**8, 2.0**4, 1.0)


def task_loss(losses: Mapping[str, Any]) -> Tensor:
    """The sum of the student's own losses, added up as mmengine does: each is a tensor or a list of tensors."""
    own = (value for key, value in losses.items() if "loss" in key and not key.startswith(DISTILL_PREFIX))
    parts = [item.mean() for value in own for item in (value if isinstance(value, list) else [value])]
    return torch.stack(parts).sum()


def gradients(loss: Tensor, inputs: Sequence[Any], factor: float = 1.0) -> list[Tensor | None]:
    """The gradients of ``factor * loss`` with respect to tensors or graph edges; None where the loss does not depend
    on one.

    The graph is retained for the step's own backward pass, and no parameter's ``grad`` is changed.
    """
    if not loss.requires_grad or not inputs:
        return [None] * len(inputs)
    with without_autocast(loss.device.type):
        start = [torch.full_like(loss, factor)]
        return list(torch.autograd.grad(loss, inputs, start, retain_graph=True, allow_unused=True))


def last_shared(task: Tensor, term: Tensor) -> list[GradientEdge]:
    """The last tensors that two losses of one step both depend on; none of them is computed from another one of them.

    For a loss on logits these are the head's logits. For a loss on a feature it is that feature, if the task loss
    depends on it, and otherwise the nearest earlier tensors that both losses depend on. Trained weights are returned
    only if there is no such tensor. If a later layer changes a tensor in place, its earlier version is returned.

    Returns:
        Edges of the autograd graph, which :func:`torch.autograd.grad` takes like tensors; an empty list if the losses
        share nothing.
    """
    if task.grad_fn is None or term.grad_fn is None:
        return []
    task_edges = _edges(GradientEdge(task.grad_fn, 0))
    shared: dict[GradientEdge, None] = {}
    _edges(GradientEdge(term.grad_fn, 0), task_edges, shared)
    computed = [edge for edge in shared if not hasattr(edge.node, "variable")]  # only nodes of leaves have `variable`
    return computed or list(shared)


def _edges(
    start: GradientEdge, stop_at: Iterable[GradientEdge] = (), met: dict[GradientEdge, None] | None = None
) -> dict[GradientEdge, None]:
    """All edges of the graph that can be reached from ``start``; an edge of ``stop_at`` is added to ``met`` and not
    followed further."""
    visited: dict[GradientEdge, None] = {}
    to_visit = [start]
    while to_visit:
        edge = to_visit.pop()
        if edge in visited:
            continue
        visited[edge] = None
        if met is not None and edge in stop_at:
            met[edge] = None
            continue
        to_visit += [GradientEdge(node, number) for node, number in edge.node.next_functions if node is not None]
    return visited


def lengths_at_last_shared(task: Tensor, terms: Mapping[str, Tensor]) -> dict[str, tuple[float, float]]:
    """The Euclidean lengths of the task loss's gradient and of each term's, at the last tensors that they share.

    All workers must call this together: the lengths are those of the whole batch, up to a factor that is the same for
    both. The call waits for the device. A length is 0 if a loss has no gradient there, and NaN or infinite if the
    gradient is too large for float16.

    Args:
        task: the task loss, a scalar.
        terms: name -> distillation loss before its weight, a scalar.

    Returns:
        Name -> (length for the task loss, length for the term).
    """
    shared = {name: last_shared(task, term) for name, term in terms.items()}
    all_edges = list(dict.fromkeys(edge for edges in shared.values() for edge in edges))
    task_squares = dict(zip(all_edges, _squared_lengths(task, all_edges), strict=True))
    pairs = []
    for name, term in terms.items():
        term_squares = _squared_lengths(term, shared[name])
        shared_task_squares = [task_squares[edge] for edge in shared[name]]
        pairs.append(torch.stack([_sum(shared_task_squares, task), _sum(term_squares, task)]))
    lengths = torch.stack(pairs).sqrt().tolist()
    return {name: (pair[0], pair[1]) for name, pair in zip(terms, lengths, strict=True)}


def _squared_lengths(loss: Tensor, edges: Sequence[GradientEdge]) -> list[Tensor]:
    """The squared length of a loss's gradient at each edge, in float64, averaged over workers."""
    if not edges:
        return []
    device = loss.device.type
    half = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
    for factor in HALF_SCALES if half else (1.0,):
        local = [
            loss.new_zeros((), dtype=torch.float64)
            if gradient is None
            else torch.linalg.vector_norm(gradient.detach(), dtype=torch.float64).square()
            for gradient in gradients(loss, edges, factor)
        ]
        squares = collectives.mean(torch.stack(local)) / factor**2
        if not half or squares.isfinite().all():  # all workers decide the same: they have the same mean
            break
    return list(squares.unbind())


def _sum(values: Sequence[Tensor], like: Tensor) -> Tensor:
    return torch.stack([like.new_zeros((), dtype=torch.float64), *values]).sum()
