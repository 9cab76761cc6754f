"""Every loss on two workers; the table of losses in a fresh process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from loss_terms import EVERY_TERM, make_batch, make_term
from torch import Tensor, nn


@pytest.fixture(autouse=True)
def one_thread_and_a_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def worker(rank: int, rendezvous: str, results: str) -> None:
    """One of two DDP workers with other data and every kind of term; unused parameters would raise."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    torch.manual_seed(0)
    terms = nn.ModuleList([make_term(name, on) for name, on in EVERY_TERM])
    model = nn.parallel.DistributedDataParallel(AllTerms(terms), find_unused_parameters=False)
    torch.manual_seed(rank)
    for step in range(3):
        batches = {on: make_batch(on) for on in ("logits", "features")}
        if step == 1:  # one worker meets a batch of nothing but ignored pixels
            for _, _, label in batches.values():
                label.fill_(255 if rank == 0 else 1)
        model(batches).backward()
    torch.save(terms.state_dict(), f"{results}/{rank}.pt")
    torch.save([p.grad for p in terms.parameters()], f"{results}/grad{rank}.pt")
    torch.distributed.destroy_process_group()


class AllTerms(nn.Module):
    """The sum of all terms over one batch."""

    def __init__(self, terms: nn.ModuleList) -> None:
        super().__init__()
        self.terms = terms

    def forward(self, batches: dict[str, tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        pairs = zip(EVERY_TERM, self.terms, strict=True)
        return torch.stack([term(*batches[on]) for (_, on), term in pairs]).sum()


@pytest.mark.e2e
def test_two_workers_have_no_unused_parameters_and_share_one_memory(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(worker, (str(tmp_path / "rendezvous"), str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    queues = [key for key in first if key.endswith((".keys", ".written"))]
    assert queues
    for key in queues:
        assert torch.equal(first[key], second[key]), key
    assert sum(int(first[key].sum()) for key in queues if key.endswith("written")) > 0
    for a, b in zip(torch.load(tmp_path / "grad0.pt"), torch.load(tmp_path / "grad1.pt"), strict=True):
        assert torch.equal(a, b)


@pytest.mark.e2e
def test_names_and_the_check_do_not_import_torch() -> None:
    code = (
        "import sys, rdistill.losses as l\n"
        "assert l.check_params('KL', {'tau': 1.0}, 'logits') == []\n"
        "assert 'torch' not in sys.modules\n"
        "assert l.Term.__name__ == 'Term' and 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
