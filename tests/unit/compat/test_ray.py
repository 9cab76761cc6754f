"""What rdistill uses of Ray that it does not document is there, and does what it is used for.

tests/e2e/test_trust.py looks at the sockets of a cluster that was started so.
"""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import pytest
import ray
from ray._private import ray_constants, services
from ray.air.execution._internal import RayActorManager
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.exceptions import OutOfMemoryError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal import exceptions as train_exceptions
from ray.tune import ResultGrid
from ray.tune.analysis import ExperimentAnalysis
from ray.tune.schedulers import ASHAScheduler

from rdistill._compat import ray as compat
from rdistill._compat.changed import LibraryChangedError


def test_addresses_stay_on_the_loopback() -> None:
    """`ray.init` resolves what it is told by this function: with the constant unset, to what others can reach."""
    with compat.on_loopback():
        assert services.resolve_ip_for_localhost("127.0.0.1") == "127.0.0.1"
        assert services.get_node_ip_address() == "127.0.0.1"
    assert ray_constants.ENABLE_RAY_CLUSTER is True
    assert "resolve_ip_for_localhost(_node_ip_address)" in inspect.getsource(ray.init)


def test_without_the_constant_no_cluster_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ray_constants, "ENABLE_RAY_CLUSTER")
    with pytest.raises(LibraryChangedError, match="keeps its cluster to this machine"), compat.on_loopback():
        pytest.fail("it would listen on all interfaces")
    assert not hasattr(ray_constants, "ENABLE_RAY_CLUSTER")


def test_ray_takes_the_options_and_refuses_unknown_ones() -> None:
    source = inspect.getsource(ray.init)
    for name in compat.start_options("/tmp/x"):
        assert f'kwargs.pop("{name}"' in source
    with pytest.raises(RuntimeError, match="_no_such_option"):
        ray.init(address="local", _no_such_option=1)
    assert not ray.is_initialized()


def test_an_address_is_taken_as_it_stands() -> None:
    """Whether a cluster answers there, tests/e2e/distributed/test_cluster.py asks: Ray tries for 40 seconds."""
    assert compat.bootstrap_address("127.0.0.1:6390").endswith(":6390")


def test_the_clusters_own_books() -> None:
    """Their functions are there; tests/e2e asks a running cluster."""
    state = ray._private.state
    assert all(map(callable, (state.state.get_max_resources_from_cluster_config, state.jobs, state.actors)))
    from ray.autoscaler.v2.schema import ClusterStatus, ResourceDemandSummary, ResourceRequestByCount
    from ray.autoscaler.v2.sdk import get_cluster_status

    assert next(iter(inspect.signature(get_cluster_status).parameters)) == "gcs_address"
    assert "resource_demands" in ClusterStatus.__dataclass_fields__
    assert {"placement_group_demand", "ray_task_actor_demand"} <= set(ResourceDemandSummary.__dataclass_fields__)
    assert "bundle" in ResourceRequestByCount.__dataclass_fields__


def test_what_a_trials_process_fails_of_is_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    tunes_own = RayActorManager._actor_task_failed
    seen: list[Exception] = []
    monkeypatch.setattr(RayActorManager, "_actor_task_failed", lambda self, task, exception: seen.append(exception))
    with compat.failures_of_actors_as(lambda error: ValueError(f"was {type(error).__name__}")):
        RayActorManager._actor_task_failed(None, None, OutOfMemoryError("x"))
    assert [str(error) for error in seen] == ["was OutOfMemoryError"]
    monkeypatch.undo()
    assert RayActorManager._actor_task_failed is tunes_own
    assert list(inspect.signature(tunes_own).parameters) == ["self", "tracked_actor_task", "exception"]
    # Tune calls it at run time, by its name on the class.
    assert "self._actor_task_failed(" in inspect.getsource(RayActorManager)


def test_without_that_method_no_sweep_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(RayActorManager, "_actor_task_failed")
    with pytest.raises(LibraryChangedError), compat.failures_of_actors_as(lambda error: error):
        pytest.fail("a trial too many for the memory would end it")


def test_tunes_own_trials() -> None:
    analysis = ExperimentAnalysis.__new__(ExperimentAnalysis)
    analysis.trials = ["a", "b"]
    grid = ResultGrid.__new__(ResultGrid)
    grid._experiment_analysis = analysis
    assert compat.trials_of(grid) == ["a", "b"]
    assert "self._experiment_analysis = experiment_analysis" in inspect.getsource(ResultGrid.__init__)
    assert "self.trials" in inspect.getsource(ExperimentAnalysis.__init__)


def test_the_end_of_asha() -> None:
    asha = ASHAScheduler(time_attr="iter", max_t=30, metric="mIoU", mode="max")
    assert [compat.is_at_its_end(asha, {"iter": done}) for done in (29, 30)] == [False, True]


def test_runs_of_mlflow() -> None:
    logger = MLflowLoggerCallback("file:///tmp/nowhere")
    logger._trial_runs = {}  # `setup` does so, which also makes an experiment in a store
    assert compat.run_of_trial(logger) is logger._trial_runs
    assert "self._trial_runs" in inspect.getsource(MLflowLoggerCallback.setup)
    assert "self._trial_runs[trial]" in inspect.getsource(MLflowLoggerCallback.log_trial_start)


def test_errors_of_ray_train() -> None:
    place, start, health = compat.group_found_no_place(), compat.group_died_at_its_start(), compat.health_check_failed()
    assert isinstance(train_exceptions.WorkerGroupStartupTimeoutError(2), place)
    assert isinstance(train_exceptions.WorkerGroupStartupFailedError("x"), start)
    assert isinstance(train_exceptions.WorkerHealthCheckTimeoutError("x"), health)
    assert not issubclass(train_exceptions.InsufficientClusterResourcesError, (*place, *start, *health))


def test_what_ray_wraps_is_found() -> None:
    inner = ValueError("inner")
    wrapped = [
        WorkerGroupError("text", {0: inner}),
        ControllerError(inner),
        train_exceptions.UserExceptionWithTraceback(inner, "a traceback"),
        train_exceptions.WorkerHealthCheckFailedError("text", inner),
        ray.exceptions.RayTaskError("f", "a traceback", inner),
    ]
    assert [compat.errors_within(error) for error in wrapped] == [[inner]] * len(wrapped)
    assert compat.errors_within(inner) == []
    assert compat.errors_within(SimpleNamespace(worker_failures="no table")) == []  # type: ignore[arg-type]
