"""What a model's folder says, and where it comes from."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO

from rdistill.core.errors import UserError
from rdistill.teachers.folders import Normalisation, class_names, model_folder, normalisation_of, read_settings


class Files:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find_folder(self, name: str) -> Path | None:
        return self.folder / name if (self.folder / name).is_dir() else None


IMAGENET: dict[str, Any] = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


@pytest.mark.parametrize(
    ("settings", "mean", "std", "rgb"),
    [
        (IMAGENET, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), True),
        ({**IMAGENET, "rescale_factor": 1 / 127.5}, (61.8375, 58.14, 51.765), (29.1975, 28.56, 28.6875), True),
        ({**IMAGENET, "do_rescale": False}, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), True),
        ({**IMAGENET, "do_normalize": False}, (0, 0, 0), (255, 255, 255), True),
        ({"do_flip_channel_order": True, "do_normalize": False}, (0, 0, 0), (255, 255, 255), False),
    ],
)
def test_normalisation_is_the_image_processor_s(
    settings: dict[str, Any], mean: tuple[float, ...], std: tuple[float, ...], rgb: bool, tmp_path: Path
) -> None:
    assert normalisation_of(tmp_path) is None
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    read = normalisation_of(tmp_path)
    assert read is not None and read.rgb is rgb
    assert read.mean == pytest.approx(mean) and read.std == pytest.approx(std)


def test_a_processor_of_images_and_text_holds_it_too(tmp_path: Path) -> None:
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": IMAGENET}))
    read = normalisation_of(tmp_path)
    assert isinstance(read, Normalisation) and read.mean == pytest.approx((123.675, 116.28, 103.53))
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "OneFormerProcessor"}))
    assert normalisation_of(tmp_path) is None


def test_three_values_are_needed(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5], "image_std": [0.5]}))
    with pytest.raises(UserError, match="image_mean and image_std must be three numbers each, got"):
        normalisation_of(tmp_path)


def test_class_names_stand_in_the_order_of_their_numbers() -> None:
    labels = {str(index): f"class {index}" for index in reversed(range(11))}
    assert class_names({"id2label": labels}) == tuple(f"class {index}" for index in range(11))
    assert class_names({}) == ("LABEL_0", "LABEL_1")  # transformers' default, which it does not write
    with pytest.raises(UserError, match="id2label must have numbers as its keys, got 'road'"):
        class_names({"id2label": {"road": 0}})


def test_what_is_no_folder_of_a_model(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert model_folder("empty", Files(tmp_path)) == tmp_path / "empty"  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"has no config.json: it is no folder that `save_pretrained` wrote"):
        read_settings(tmp_path / "empty")
    for text, problem in (("{", "is no JSON"), ("[]", "must be a JSON object, got a list")):
        (tmp_path / "empty/config.json").write_text(text)
        with pytest.raises(UserError, match=problem):
            read_settings(tmp_path / "empty")
    with pytest.raises(UserError, match=r"no such folder ./gone, and it is no id of the hub, which is OWNER/NAME"):
        model_folder("./gone", Files(tmp_path))  # type: ignore[arg-type]


def in_a_process(folder: Path, timeout_s: float = 10, **variables: str) -> str:
    """Where the hub's client, which reads its variables once, finds a model; the last line of what it prints."""
    pytest.importorskip("huggingface_hub", reason="pip install 'rdistill[teachers]'")
    code = (
        "from pathlib import Path\nfrom rdistill.teachers import folders\n"
        "from rdistill.teachers.folders import model_folder\nfrom rdistill.core.errors import UserError\n"
        f"folders.TIMEOUT_S = {timeout_s}\n"
        "class Files:\n    def find_folder(self, name):\n        return None\n"
        "try:\n    print(model_folder('nobody/nothing', Files()))\n"
        "except UserError as error:\n    print(*error.problems)\n"
    )
    hidden = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment = {**hidden, "PYTHONPATH": str(REPO), "HF_ENDPOINT": "http://127.0.0.1:9", "HOME": str(folder / "home")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env={**environment, **variables}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1 and done.stderr == ""
    return done.stdout.strip()


def test_a_hub_that_cannot_be_reached_is_one_line(tmp_path: Path) -> None:
    line = in_a_process(tmp_path)
    assert line.startswith("path: no such folder nobody/nothing, and the hub does not give it (")
    assert "Connection refused" in line and line.endswith("or name a folder that `save_pretrained` wrote")
    assert not (tmp_path / "home").exists()


def test_a_hub_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    """As behind a firewall that swallows what is sent to it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        line = in_a_process(tmp_path, timeout_s=1, HF_ENDPOINT=f"http://127.0.0.1:{server.getsockname()[1]}")
    assert line.startswith("path: no such folder nobody/nothing, and the hub does not give it (")
    assert "timed out" in line and line.endswith("or name a folder that `save_pretrained` wrote")


def test_what_was_fetched_lies_under_work_dirs(tmp_path: Path) -> None:
    """As the hub's client keeps it: then nobody is asked."""
    cache = tmp_path / "work_dirs/.huggingface/hub/models--nobody--nothing"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (cache / "snapshots" / commit).mkdir(parents=True)
    (cache / "snapshots" / commit / "config.json").write_text("{}")
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text(commit)
    assert in_a_process(tmp_path) == str(cache / "snapshots" / commit)
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "work_dirs/.huggingface").rename(elsewhere)
    assert in_a_process(tmp_path, HF_HOME=str(elsewhere)).startswith(str(elsewhere))
