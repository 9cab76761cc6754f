"""Work dirs in S3 (moto's server), from which another machine goes on."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Command, Tiny

from e2e.conftest import TIMEOUT_S, Sandbox
from rdistill.core.storage import open_work_dir as at
from rdistill.distill.store_files import ABOUT, store_files, teachers_in
from rdistill.training.run import train

pytestmark = pytest.mark.e2e

WEIGHT = "distill.losses.logits.weight"


@pytest.fixture(scope="module", autouse=True)
def leftovers(sandbox: Sandbox) -> Iterator[None]:
    """Of processes that are killed here: nobody else tidies up their copies of what lies in the bucket."""
    yield
    for folder in (sandbox.root / "t").glob("rdistill-*"):
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def bucket(sandbox: Sandbox) -> Iterator[str]:
    """An empty bucket of a server of our own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=sandbox.cwd,
    )  # fmt: skip
    variables = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    before = {key: os.environ.get(key) for key in variables}
    os.environ.update(variables)
    try:
        import boto3

        waited_until = time.monotonic() + TIMEOUT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < waited_until
                time.sleep(0.2)
        boto3.client("s3").create_bucket(Bucket="study")
        yield "s3://study"
    finally:
        server.terminate()
        server.wait()
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})


@pytest.fixture(scope="module")
def small(tiny: Tiny) -> list[object]:
    return ["--data-root", tiny.data_root, "--size", 32, "--batch-size", 2, "--val-interval", 2]


def weights(where: str | Path, name: str) -> dict[str, torch.Tensor]:
    with at(where, name) as here:
        return torch.load(here.folder / name, weights_only=True)["state_dict"]


def test_a_run_is_there_and_goes_on_from_there(
    bucket: str, sandbox: Sandbox, tiny: Tiny, small: list[object], state_equal: Callable[[Any, Any], bool]
) -> None:
    """Killed after its second validation, resumed where nothing of it is on the disk: the weights of a run in peace."""
    arguments = ["train", tiny.folder / "distill.py", *small, "--iters", 8, "--seed", 3]
    sandbox.run(*arguments, "--work-dir", sandbox.root / "in-peace")
    run = f"{bucket}/run"
    with sandbox.start(*arguments, "--work-dir", run) as process:
        waited_until = time.monotonic() + TIMEOUT_S
        while True:
            with at(run) as here:
                if any(name.endswith("/last.pth") for name in here.names()):
                    break
            assert process.poll() is None and time.monotonic() < waited_until, process.communicate()
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    of_the_killed = set((sandbox.root / "t").glob("rdistill-at-*"))  # nobody can tidy up after a -9
    refused = sandbox.run(*arguments, "--work-dir", run, status=2)
    assert refused.stderr.startswith("error: ") and "--resume" in refused.stderr
    done = sandbox.run(*arguments, "--work-dir", run, "--resume")
    assert f"{run}/student.pth" in done.stdout
    assert state_equal(weights(run, "student.pth"), weights(sandbox.root / "in-peace", "student.pth"))
    assert list(sandbox.cwd.iterdir()) == [] and set((sandbox.root / "t").glob("rdistill-at-*")) == of_the_killed


@pytest.mark.slow
def test_a_sweep_is_there_and_goes_on_from_there(
    bucket: str, sandbox: Sandbox, tiny: Tiny, small: list[object]
) -> None:
    space = {WEIGHT: {"type": "choice", "values": [1.0, 30.0]}}
    content = {"config": str(tiny.folder / "distill.py"), "space": space, "search": {"type": "grid"}}
    content["trial"] = {"max_concurrent": 1}
    sweep = f"{bucket}/sweep"
    arguments = ["sweep", sandbox.sweep_file("s3", content), "--work-dir", sweep, *small, "--iters", 4]
    with sandbox.start(*arguments) as driver:
        waited_until = time.monotonic() + TIMEOUT_S
        finished = 0
        while not finished:
            # They are read as text: one that is replaced while it is fetched may come in part.
            with at(sweep, "trials/*/trial.json") as here:
                records = [file.read_text() for file in here.folder.glob("trials/*/trial.json")]
                finished = sum('"status": "finished"' in record for record in records)
            assert driver.poll() is None and time.monotonic() < waited_until, driver.communicate()
            time.sleep(0.1)
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
    time.sleep(5)  # the trials' own processes notice, and end
    done = sandbox.run(*arguments, "--resume")
    assert f"{sweep}/best.pth" in done.stdout
    with at(sweep, "*", "trials/*/*") as here:
        assert (here.folder / "results.csv").read_text().count("finished") == 3
        for name in ("baseline", "t0001", "t0002"):
            folder = here.folder / "trials" / name
            record = json.loads((folder / "trial.json").read_text())
            assert [entry["iter"] for entry in record["history"]] == [2, 4]
            assert {"last.pth", "best.pth", "student.pth", "trial.py"} <= {file.name for file in folder.iterdir()}
        assert (here.folder / "best.pth").is_file() and (here.folder / "best.py").is_file()


def test_a_store_of_views_is_there(bucket: str, tiny: Tiny, tmp_path: Path, command: Command) -> None:
    """Filled by one run, read whole by another node's, damaged, verified, mended, and pruned."""
    where, options = f"{bucket}/views", dict(teacher_metrics=[{}], check=False)

    def run(node: str) -> dict[str, int]:
        """Of a node that has none of the entries itself."""
        store = {"views": 2, "bits": 32, "dir": where, "local": str(tmp_path / node / "store")}
        cfg = tiny.load("distill", {"distill.losses.hidden": None, "distill.store": store}, iters=4, val_interval=4)
        return train(cfg, tmp_path / node / "run", **options)["teacher_store"]

    filled, read = run("first"), run("second")
    assert filled["computed"] > 0 and (read["images"], read["computed"], read["damaged"]) == (8, 0, 0)
    assert torch.equal(
        *(next(iter(weights(tmp_path / node / "run", "last.pth").values())) for node in ("first", "second"))
    )
    whole = json.loads(command("store", "verify", where, "--json").out)
    assert (whole["damaged"], whole["entries"]) == (0, filled["computed"])

    files = store_files(where)
    (teacher,) = teachers_in(files)
    entry = next(file.name for file in files.listed(teacher) if not file.name.endswith(ABOUT))
    files.write(entry, (files.read(entry) or b"")[:-1])
    found = command("store", "verify", where)
    assert found.status == 1 and entry in found.out + found.err
    mended = run("third")
    assert (mended["computed"], mended["damaged"]) == (1, 1)
    assert command("store", "verify", where).status == 0

    assert command("store", "prune", where, "--teacher", teacher[:8]).status == 0
    assert teachers_in(files) == {}
    assert run("fourth")["computed"] == filled["computed"]


@pytest.mark.slow
def test_a_store_is_built_there(bucket: str, sandbox: Sandbox, tiny: Tiny, small: list[object]) -> None:
    """By Ray's tasks, which open the bucket by themselves; a second build finds all of it."""
    store = f"distill.store={{'views': 2, 'dir': '{bucket}/built', 'local': '{sandbox.root / 'local'}'}}"
    data = small[: small.index("--val-interval")]
    config = [tiny.folder / "distill.py", *data, "--set", "distill.losses.hidden=None", "--set", store]
    counts = re.search(r"12 views: (\d+) computed, (\d+) were there", sandbox.run("store", "build", *config).stdout)
    assert counts is not None
    computed, there = map(int, counts.groups())
    assert computed + there == 12 and computed >= 6  # flipped alike, both views of an image are one entry
    assert "12 views: 0 computed, 12 were there" in sandbox.run("store", "build", *config).stdout


def test_storage_that_does_not_answer_is_one_line(
    sandbox: Sandbox, tiny: Tiny, small: list[object], bucket: str
) -> None:
    done = sandbox.run("train", tiny.folder / "student.py", *small, "--work-dir", "s3://nowhere/run", status=1)
    assert done.stderr.startswith("error: s3://nowhere/run: ") and done.stderr.count("\n") == 1
