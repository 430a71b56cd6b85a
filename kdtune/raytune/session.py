"""Ray as a study asks for it: what is refused before it starts, its start, its end."""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
import torch

from kdtune.config.errors import InputError
from kdtune.config.study import Study
from kdtune.streams.resources import check_gpus


def check_machine(study: Study, ray_init: dict[str, Any] | None) -> None:
    """Refuse, before Ray starts, to take more than this machine has."""
    if study.address is not None:
        return _check_address(study.address)
    gpus, cpus = torch.cuda.device_count(), _cores()
    if ray_init is not None:
        gpus, cpus = ray_init.get("num_gpus", 0), ray_init.get("num_cpus", cpus)
    check_gpus(study, gpus)
    if study.cpus_per_trial > cpus:
        raise InputError(
            f"cpus_per_trial must be at most the machine's {cpus} cores, but got "
            f"cpus_per_trial={study.cpus_per_trial}"
        )
    taken = gpus if study.gpus is None else study.gpus
    if taken and study.gpus_per_trial > taken:
        raise InputError(
            f"gpus_per_trial must be at most the {taken} GPUs taken, but got "
            f"gpus_per_trial={study.gpus_per_trial:g}"
        )


def _check_address(address: str) -> None:
    """Refuse HOST:PORT where nothing listens: Ray waits there for minutes."""
    host, _, port = address.rpartition(":")
    if host and "://" not in address:
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except (OSError, ValueError) as error:
            raise InputError(f"no Ray cluster answers at {address} ({error})") from None


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


@contextmanager
def ray_session(study: Study, ray_init: dict[str, Any] | None) -> Iterator[None]:
    """Ray as the study asks for it, shut down at the end; a Ray that already runs is left as is."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # its banner ignores verbose=0
    # its CSV and JSON loggers write each report twice over, and the records have it already
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    # Ray's snapshots are never restored from: they lag, cannot be extended, and unpickle
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")
    # the exporter's threads outlive ray.shutdown: a second study's could crash the process' exit
    os.environ.setdefault("RAY_enable_metrics_collection", "0")
    logging.getLogger("ray").setLevel(logging.ERROR)
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if ray_init is not None:
        # without an address it would join any Ray that runs on this machine
        ray.init(**{"address": "local"} | common | ray_init)
    elif study.address is not None:
        try:
            ray.init(address=study.address, **common)
        except ConnectionError as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"no Ray cluster answers at {study.address} ({reason})") from error
    else:
        gpus = torch.cuda.device_count() if study.gpus is None else study.gpus
        here: dict[str, Any] = {"num_cpus": _cores(), "num_gpus": gpus}
        ray.init(address="local", include_dashboard=False, **here, **common)
    try:
        with _ended_as_by_ctrl_c():
            yield
    finally:
        ray.shutdown()


@contextmanager
def _ended_as_by_ctrl_c() -> Iterator[None]:
    """SIGTERM, from `kill` or a batch system, ends a study as Ctrl-C does; Ray's way is a crash."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say so
        return
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
