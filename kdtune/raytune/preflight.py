"""Checks of every machine of the cluster before a trial runs there.

Without them a study half works on machines that differ: with a folder that only some of them see,
some trials succeed, some fail, and the exit code is 0.
"""

from collections.abc import Callable
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from kdtune import __version__
from kdtune.config.errors import NodeMismatchError, first_line
from kdtune.config.study import Study
from kdtune.raytune.gpu_memory import check_gpu_memory
from kdtune.raytune.machines import Node, TrialResources, alive_nodes
from kdtune.raytune.node_status import (
    NodeStatus,
    find_differences,
    find_faults,
    find_missing_gpus,
    inspect_node,
)
from kdtune.raytune.storage_probe import StorageProbe
from kdtune.results.tables import markdown
from kdtune.storage.object_store import SHORT_RETRY_TIMEOUT_SECONDS
from kdtune.streams.cache import Cache
from kdtune.streams.resources import device_of, loader_workers

ANSWER_SECONDS = 180.0
"""Time for a machine to answer, beside an outage of the store; its worker first imports torch."""


def preflight(study: Study, trial: TrialResources) -> list[str]:
    """Inspect every machine of the cluster, and try one batch on its GPU.

    Args:
        study: Whose place, data and weights are inspected.
        trial: What one trial takes.

    Returns:
        Lines for the terminal: a table with a row per machine (if there are several), what a trial
        takes (if it takes GPUs) and warnings.

    Raises:
        NodeMismatchError: A machine cannot run the study's trials; one line per fault.
        InputError, OSError: The driver cannot write into the study's place.
        InputError: The concurrent trials of a GPU do not fit into its memory.
    """
    statuses, faults = inspect_nodes(study, alive_nodes(), trial, SHORT_RETRY_TIMEOUT_SECONDS)
    lines = [sentence for found in faults.values() for sentence in found]
    lines += [f"{node} {status.no_answer}" for node, status in statuses.items() if status.no_answer]
    if lines:
        raise NodeMismatchError("\n".join(lines))
    table = [_table(study, statuses)] if len(statuses) > 1 else []
    warnings = [find_missing_gpus(node, status) for node, status in statuses.items()]
    lines = table + [f"warning: {sentence}" for sentence in warnings if sentence]
    if with_gpus := [node for node, status in statuses.items() if trial.gpu and status.gpus]:
        lines += check_gpu_memory(study, with_gpus, trial)
        lines.append(_describe_trial(study, trial))
    return lines


def inspect_nodes(
    study: Study, nodes: list[Node], trial: TrialResources, retry_timeout: float
) -> tuple[dict[Node, NodeStatus], dict[Node, list[str]]]:
    """Inspect machines from the first of them, that of the driver.

    Args:
        study: Whose place, data and weights are inspected.
        nodes: The machines; this function runs on the first.
        trial: What one trial takes.
        retry_timeout: Seconds for which requests to the object store are retried in an outage.

    Returns:
        The status of each machine, and a sentence for each of its faults.

    Raises:
        InputError, OSError: The first machine cannot write into the study's place.
    """
    first, *others = nodes
    probe = StorageProbe(study, retry_timeout)
    try:
        probe.write("driver")
        statuses = {first: inspect_node(study, probe)}
        tasks = {node: start_on(node, inspect_node, study, probe) for node in others}
        statuses |= {node: _wait_for_status(task, retry_timeout) for node, task in tasks.items()}
        faults = {node: find_faults(node, status, trial) for node, status in statuses.items()}
        for node in others:
            status = statuses[node]
            faults[node] += find_differences(study, {first: statuses[first], node: status})
            if not (status.faults or status.no_answer or probe.sees(node.id)):
                faults[node].append(
                    f"{first} does not see what {node} wrote into {probe.place}; {probe.advice}"
                )
    finally:
        probe.remove()
    return statuses, faults


def start_on(node: Node, function: Callable[..., Any], *arguments: Any) -> Any:
    """Start a Ray task on a machine; return its reference."""
    strategy = NodeAffinitySchedulingStrategy(node.id, soft=False)
    task = ray.remote(function).options(num_cpus=0, max_retries=0, scheduling_strategy=strategy)
    return task.remote(*arguments)


def describe_ray_error(error: Exception) -> str:
    """Return the first line of what failed in a Ray task."""
    return first_line(getattr(error, "cause", None) or error)


def _wait_for_status(task: Any, retry_timeout: float) -> NodeStatus:
    """Return the status that a machine reports, or why it does not."""
    seconds = ANSWER_SECONDS + retry_timeout
    try:
        status: NodeStatus = ray.get(task, timeout=seconds)
        return status
    except ray.exceptions.GetTimeoutError:
        return NodeStatus(no_answer=f"has not answered in {seconds:.0f} s")
    except (ray.exceptions.RayTaskError, ray.exceptions.RuntimeEnvSetupError) as error:
        reason = describe_ray_error(error)
        return NodeStatus(faults=(f"cannot run kdtune {__version__} ({reason}); install it there",))
    except ray.exceptions.RayError as error:  # the machine was lost during its inspection
        return NodeStatus(no_answer=f"could not be inspected ({describe_ray_error(error)})")


def _describe_trial(study: Study, trial: TrialResources) -> str:
    """Return the line that says what a trial takes of a machine with GPUs."""
    workers = loader_workers(study, device_of(study, gpus=1), trial.cpu)
    return (
        f"Each trial has --gpus-per-trial {trial.gpu:g}, --cpus-per-trial {trial.cpu} and "
        f"--loader-workers {workers}."
    )


def _table(study: Study, statuses: dict[Node, NodeStatus]) -> str:
    folders = {"study": study.folder, "cache": Cache(study.cache).folder}
    head = ["machine", "kdtune", "torch", "CPU", "GPU", *(f"free GB, {name}" for name in folders)]
    rows = []
    for node, status in statuses.items():
        counts = [f"{node.resources.get(kind, 0):g}" for kind in ("CPU", "GPU")]
        free = [f"{status.free[str(folder)] / 1e9:.1f}" for folder in folders.values()]
        rows.append([str(node), status.kdtune, status.torch, *counts, *free])
    return markdown(head, rows)
