"""The head of the report: when, where and with what the numbers were made."""

from datetime import UTC, datetime
from typing import Any

from kdtune.results.study_results import Results
from kdtune.storage.records import read_provenance, read_saved

SOFTWARE = ("kdtune", "torch", "torchvision", "ray")
"""Versions at the head; the others are under Provenance."""


def identity(results: Results) -> dict[str, str]:
    """Return date, machine, versions and fingerprints; what was not recorded is left out.

    The date is that of the last record, so that the page does not depend on the clock.
    """
    record = read_provenance(results.folder)
    facts = {
        "last record": _date(results.frames.last_record_time),
        "machine": _machine(results, record),
        "software": _software(record),
    }
    fingerprints = read_saved(results.folder).fingerprints
    known = [f"{name} {value}" for name, value in fingerprints.items()]
    if known or record.get("data"):
        facts["fingerprints"] = ", ".join(known) or f"data {record['data']}"
    return {name: value for name, value in facts.items() if value}


def _date(seconds: float | None) -> str:
    return "" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def _machine(results: Results, record: dict[str, Any]) -> str:
    """Return the processors that models were measured on, and the number of machines."""
    named = list(results.costs.hardware.unique()) if len(results.costs) else []
    own = record.get("machine", {})
    if not named and own.get("processor"):
        named = [own["processor"]]
    parts = [str(name) for name in named]
    if own.get("cores"):
        parts.append(f"{own['cores']} cores")
    if own.get("system"):
        parts.append(str(own["system"]))
    machines = results.trials.node.dropna().nunique()
    if machines > 1:
        parts.append(f"{machines} machines")
    return ", ".join(parts)


def _software(record: dict[str, Any]) -> str:
    versions = record.get("versions", {})
    shown = [f"{name} {versions[name]}" for name in SOFTWARE if name in versions]
    if record.get("python"):
        shown.append(f"Python {record['python']}")
    return ", ".join(shown)
