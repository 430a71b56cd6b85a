"""The start and the end of Ray as a study asks for it."""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import ray

from kdtune.config.errors import InputError, first_line
from kdtune.config.study import Study
from kdtune.raytune.local_ray import environment, private_ray
from kdtune.raytune.lost_ray import lost_ray_in_words
from kdtune.raytune.stop_signals import forget, signals_as_ctrl_c
from kdtune.streams.resources import count_gpus, local_cpus

DEFAULTS = {
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "RAY_AIR_NEW_OUTPUT": "0",  # its banner ignores verbose=0
    # Tune's CSV and JSON loggers write each report twice more; the records have it already
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Tune's snapshots are never restored from: they lag, cannot be extended, and unpickle
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    # the exporter's threads outlive ray.shutdown; a second study's could crash the process's exit
    "RAY_enable_metrics_collection": "0",
    # a task that does not fit into memory would be started again for ever
    "RAY_task_oom_retries": "2",
}
"""Environment variables of a study; values that the user has set are kept."""


@contextmanager
def ray_session(study: Study, ray_init: dict[str, Any] | None) -> Iterator[None]:
    """Run Ray as the study asks for it, until the context is left.

    A Ray that already runs in this process is used and left as it is.

    Args:
        study: Names the cluster to connect to, or the GPUs that a local Ray may use.
        ray_init: Arguments of `ray.init` in place of those the study asks for. Without an address
            a local Ray is started.

    Raises:
        InputError: No Ray cluster answers at the study's address.
    """
    if ray.is_initialized():
        yield
        return
    logger = logging.getLogger("ray")
    with ExitStack() as stack:
        stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.ERROR)
        unset = {name: value for name, value in DEFAULTS.items() if name not in os.environ}
        stack.enter_context(environment(**unset))
        stack.callback(forget)
        stack.enter_context(_sigterm_restored())
        stack.enter_context(_started(study, ray_init))
        stack.enter_context(signals_as_ctrl_c())
        stack.enter_context(lost_ray_in_words())
        yield


@contextmanager
def _started(study: Study, ray_init: dict[str, Any] | None) -> Iterator[None]:
    """Start a local Ray, or connect to a cluster; stop or disconnect at the end."""
    arguments = _arguments(study) if ray_init is None else {"address": "local"} | ray_init
    arguments = {"log_to_driver": False, "logging_level": logging.ERROR} | arguments
    if arguments["address"] == "local":
        with environment(PYTHONPATH=_own_places()), private_ray(arguments):
            yield
        return
    try:
        _connect(arguments)
        yield
    finally:
        ray.shutdown()


def _own_places() -> str | None:
    """Return PYTHONPATH with which workers find all modules that this process finds.

    Ray passes on the folder of the main program alone, but a notebook may have extended `sys.path`.
    """
    of_python = (sys.base_prefix + os.sep, sys.prefix + os.sep)
    places = [os.path.abspath(place) for place in sys.path if not place.startswith(of_python)]
    return os.pathsep.join(dict.fromkeys(places)) or None


def _arguments(study: Study) -> dict[str, Any]:
    if study.address is not None:
        return {"address": study.address}
    gpus = count_gpus(study) if study.may_use_gpus else 0
    return {
        "address": "local",
        "include_dashboard": False,
        "num_cpus": local_cpus(),
        "num_gpus": gpus if study.gpus is None else study.gpus,
    }


def _connect(arguments: Mapping[str, Any]) -> None:
    try:
        ray.init(**arguments)
    except (ConnectionError, ray.exceptions.AuthenticationError) as error:
        raise InputError(
            f"no Ray cluster answers at {arguments['address']} ({first_line(error)})"
        ) from error


def check_address(address: str) -> None:
    """Raise InputError if nothing listens at HOST:PORT, where Ray would wait for minutes."""
    host, _, port = address.rpartition(":")
    if host and "://" not in address:
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except (OSError, ValueError) as error:
            raise InputError(f"no Ray cluster answers at {address} ({error})") from None


@contextmanager
def _sigterm_restored() -> Iterator[None]:
    """Restore the handler of SIGTERM at the end; `ray.init` replaces it by its own for good."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
