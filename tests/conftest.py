"""Tiny runs on the embedded data."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import pytest
import torch

from kdtune.streams.views import Resources
from kdtune.training.teachers import fine_tune

hypothesis.settings.register_profile("busy", deadline=None)  # of another machine's load
hypothesis.settings.load_profile("busy")

HERE = str(Path(__file__).parent)
sys.path.insert(0, str(Path(HERE).parent / "experiments"))
sys.path.insert(0, HERE)  # reference.py, factories.py; also for Ray's workers and subprocesses:
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [HERE, os.environ.get("PYTHONPATH")]))
# why: kdtune.raytune.session.RAY_DEFAULTS
os.environ.setdefault("RAY_enable_metrics_collection", "0")

from tiny_run import TINY  # noqa: E402 - found through the path above

FIRST = ("studies", "raytune", "streams", "storage", "commands")
"""Folders with the longest tests: processes that begin with them end at about the same time."""
MAX_PROCESSES = 8


@pytest.hookimpl(tryfirst=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run the whole suite in a process per core, and some of its files in this process.

    The hosts of the cluster tests are there once.
    """
    whole = config.args_source is config.ArgsSource.TESTPATHS
    of_hosts = config.option.markexpr.startswith("cluster")
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(cores, MAX_PROCESSES) if whole and not of_hosts and cores > 1 else 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; xdist keeps the tests of a file in one process."""
    # not xdist's groups (--dist loadgroup): 3.8 does not apply them under pytest 9.2
    shares_ray = {item.path for item in items if "shared_ray" in getattr(item, "fixturenames", ())}

    def rank(item: pytest.Item) -> tuple[bool, int]:
        folder = item.path.relative_to(HERE).parts[0]
        place = FIRST.index(folder) if folder in FIRST else len(FIRST)
        return item.path not in shares_ray, place

    items.sort(key=rank)


torch.set_num_threads(1)  # results are equal at equal numbers; two spin over tiny tensors


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def short_benchmarks() -> Iterator[None]:
    """Latencies are measured for a moment only: no test depends on their precision."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdtune.models.checks.MIN_SECONDS", 0.01)
        yield


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run's teacher, fine-tuned once."""
    folder = tmp_path_factory.mktemp("teacher")
    assert len(list(fine_tune(TINY, folder, Resources()))) == 1
    return folder


@pytest.fixture(scope="module")
def seen() -> dict[tuple[float, ...], str]:
    """The weights of each kind of run that a file compares: no kind is without effect."""
    return {}


@pytest.fixture(scope="session")
def ray_stack() -> Iterator[ExitStack]:
    """Holds the Ray that tests share."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="session")
def s3_credentials() -> Iterator[None]:
    """Credentials in the environment, until the last test: Ray and the server end in any order."""
    from s3_service import ENVIRONMENT

    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.delenv("AWS_CA_BUNDLE", raising=False)
        yield


@pytest.fixture
def shared_ray(
    ray_stack: ExitStack, s3_credentials: None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A Ray with 2 CPUs that runs already, for studies whose start of Ray is not the point.

    Its workers have the environment of its start, with caches of their own.
    """
    import ray

    from kdtune.config.study import Study
    from kdtune.raytune.session import environment_set, ray_session

    if not ray.is_initialized():
        caches = str(tmp_path_factory.mktemp("caches"))
        ray_stack.enter_context(environment_set(XDG_CACHE_HOME=caches))
        init = {"num_cpus": 2, "include_dashboard": False}
        ray_stack.enter_context(ray_session(Study(gpus=0), init))


@pytest.fixture
def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """One trial at a time, in one worker: to start another takes longer than tiny trials."""
    monkeypatch.setattr("kdtune.raytune.machines.Capacity.concurrent_trials", lambda self: 1)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train teachers and run trials in this process, for studies whose numbers are the point.

    To start Ray and its processes takes longer than a tiny study. studies/test_search.py has real
    ones.
    """
    import ray
    from ray import tune

    from kdtune.raytune.distillation import TeacherPreparation, TeacherTrainer
    from kdtune.raytune.machines import Node

    def fit(trainable: Any, recorder: Any, _: object) -> None:
        study, plan = recorder.study, recorder.plan
        assert not study.stop_early
        while (run := plan.next_run()) is not None:
            config = {name: run.value(name) for name in study.task.names} | {"repeat": run.repeat}
            trial = SimpleNamespace(config=config, trial_id=run.trial_id)

            def report(result: dict[str, Any], trial: Any = trial) -> None:
                recorder.on_trial_result(0, [], trial, result | {"hostname": "here", "pid": 1})

            recorder.on_trial_start(0, [], trial)
            monkeypatch.setattr(tune, "report", report)
            trainable(config, study=study)
            recorder.on_trial_complete(0, [], trial)
            recorder.raise_failure()

    train = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=TeacherTrainer().train))
    trainer = SimpleNamespace(train=train)
    monkeypatch.setattr("kdtune.raytune.driver.ray_session", lambda *_: nullcontext())
    monkeypatch.setattr("kdtune.raytune.driver._fit", fit)
    node = Node("here", "here", {"CPU": 2})
    monkeypatch.setattr("kdtune.raytune.machines.alive_nodes", lambda: [node])
    monkeypatch.setattr(TeacherPreparation, "_start_trainer", lambda _: trainer)
    monkeypatch.setattr(TeacherPreparation, "_watched", lambda self, lines: lines)
    for name in ("put", "get", "kill"):
        monkeypatch.setattr(ray, name, lambda value: value)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What trials that run in this process report to Tune."""
    made: list[dict[str, Any]] = []
    monkeypatch.setattr("ray.tune.report", made.append)
    return made


@pytest.fixture
def without_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes longest beside tiny runs: the summary, Optuna's database, latencies."""
    monkeypatch.setattr("kdtune.planning.proposals.export_for_optuna", lambda *_: None)
    monkeypatch.setattr("kdtune.results.results.Results.text", lambda self: "")
    monkeypatch.setattr("kdtune.raytune.distillation.add_costs", lambda *_: None)


@pytest.fixture
def one_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let reports have one figure: to draw all takes seconds. reporting/test_build.py has all."""
    from kdtune.reporting import figures

    draw = figures.all_figures
    monkeypatch.setattr(figures, "all_figures", lambda *own: list(islice(draw(*own), 1)))


@pytest.fixture(scope="module")
def no_shared_ray(ray_stack: ExitStack) -> None:
    """No Ray runs when the module begins."""
    ray_stack.close()


@pytest.fixture(scope="session")
def s3(s3_credentials: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One server for all tests; every test has a prefix of its own."""
    pytest.importorskip("moto", reason="pip install -e '.[dev]' brings moto")
    from s3_service import S3

    with pytest.MonkeyPatch.context() as patch:
        server = S3(tmp_path_factory.mktemp("s3"))
        patch.setenv("AWS_ENDPOINT_URL", server.url)
        yield server
        server.process.kill()
        server.process.wait()
