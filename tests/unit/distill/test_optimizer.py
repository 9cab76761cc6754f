"""The optimizer: the student's parameters and the adapters', each once."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Tiny
from mmengine.logging import MMLogger

from rdistill.core.errors import UserError
from rdistill.distill.distiller import build_distiller
from rdistill.distill.optimizer import build_optimizer


def test_the_losses_adapters_are_trained_too(tiny: Tiny) -> None:
    cfg = tiny.load("distill")
    distiller = build_distiller(cfg, seed=0)
    adapters = [id(parameter) for parameter in distiller.terms.parameters()]
    groups = build_optimizer(cfg, distiller).optimizer.param_groups
    trained = [id(parameter) for group in groups for parameter in group["params"]]
    assert adapters and set(adapters) <= set(trained) and len(trained) == len(set(trained))
    assert set(trained) == {id(parameter) for parameter in distiller.parameters() if parameter.requires_grad}
    rates = {group["lr"] for group in groups}
    assert rates == {cfg.optim_wrapper.optimizer.lr}


def test_an_adapter_moves_in_a_step(tiny: Tiny, stream_batches) -> None:
    cfg = tiny.load("distill")
    distiller = build_distiller(cfg, seed=0).train()
    wrapper = build_optimizer(cfg, distiller)
    before = [parameter.clone() for parameter in distiller.terms.parameters()]
    with distiller.capture:
        distiller.train_step(stream_batches(cfg, 1)[0], wrapper)
    after = list(distiller.terms.parameters())
    assert any(not (old == new).all() for old, new in zip(before, after, strict=True))


def test_an_unknown_optimizer_is_named(tiny: Tiny) -> None:
    cfg = tiny.load("student")
    cfg.optim_wrapper.optimizer.type = "SGDD"  # a script may set it after the config is checked
    with pytest.raises(UserError, match=r"optim_wrapper.optimizer.type: no optimizer 'SGDD'; did you mean 'SGD'\?"):
        build_optimizer(cfg, build_distiller(cfg, seed=0))


def test_what_mmengine_says_of_each_parameter_goes_to_the_log_file_alone(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = tiny.load("student")
    cfg.optim_wrapper.paramwise_cfg = dict(norm_decay_mult=0.0)
    distiller = build_distiller(cfg, seed=0)
    logger = MMLogger.get_instance("options", log_file=str(tmp_path / "run.log"))
    build_optimizer(cfg, distiller)
    logger.info("afterwards")
    written = capsys.readouterr()
    assert "paramwise_options" not in written.out + written.err and "afterwards" in written.out + written.err
    assert "paramwise_options" in (tmp_path / "run.log").read_text()
