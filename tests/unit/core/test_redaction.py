"""Secrets are found wherever they stand, and nothing else is taken for one."""

from __future__ import annotations

from typing import Any

import pytest

from rdistill.core.redaction import redacted, secrets_in


@pytest.mark.parametrize(
    ("value", "hidden"),
    [
        ({"tags": {"api_key": "s3cret"}}, {"tags": {"api_key": "***"}}),
        (["lr=0.1", "WANDB_API_KEY=abc"], ["lr=0.1", "WANDB_API_KEY=***"]),
        ("http://me:s3@host/x and more", "http://***@host/x and more"),
        ("s3://bucket/x?secret=abc&y=1", "s3://bucket/x?secret=***&y=1"),
        ("ghp_" + "a" * 36, "***"),
        ("found my-long-key here", "found *** here"),  # what an environment variable holds
        (["--set", "visualizer.password=abc"], ["--set", "visualizer.password=***"]),
    ],
)
def test_secrets_are_hidden(value: Any, hidden: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "my-long-key")
    assert redacted(value) == hidden
    assert len(list(secrets_in(value, "tracking"))) == 1 and not list(secrets_in(hidden, "tracking"))


@pytest.mark.parametrize(
    "value",
    [
        {"num_tokens": 4, "cls_token": True, "tokenizer": "bert", "password": ""},
        ["--set", "model.backbone.output_cls_token=True"],
        ["--set", "model.token_dim=64", "a@b.org", "2026-01-01", "https://host/path"],
        {"lr": 0.1, "seeds": (1, 2)},
    ],
)
def test_other_things_are_left_alone(value: Any) -> None:
    assert redacted(value) == value and not list(secrets_in(value, "x"))
