"""Soak: small studies under random faults; each must equal, number for number, the undisturbed one.

    python experiments/soak.py --minutes 60               # as root: also full disks and hosts
    python experiments/soak.py --minutes 2 --only folder
    python experiments/soak.py --seed 3 --replay 17       # study 17 of that seed alone

A study is a grid, a race or `--repeats auto`, of tiny models, in a folder, on a store (moto's S3)
or on three simulated hosts that share a folder (as root). Its driver is disturbed by faults of
soak_faults.py; the same command is given again until the study is complete. Then it is compared
with the same study that nothing disturbed, see soak_comparison.py.

**What must be equal.** Always: each trial's numbers, bit for bit. The trials of a grid are known
from the start, whatever runs at a time. Those of a race and of `--repeats auto` are chosen by
results in the order in which they arrive. With several trials at a time that order depends on their
speed, also without any fault, so no two such studies need have the same trials. With one trial at a
time the choice is a function of the records alone (`planning.plan`), so that faults must not change
it. Races and `auto` therefore run one trial at a time here, and must have the same trials,
finalists and conclusion, too. One exception is no fault of kdtune and would still be shown as a
difference: a trial whose worker dies three times in one call counts as failed, which excludes its
configuration from the decisions until it is run again.

The seed fixes studies, faults, their times and what they draw. What a fault meets at its time
depends on the machine. The folder keeps the outputs of all calls, each study's log with the times
of its faults, and soak.md and soak.json with the table. The exit code is 1 if a study differs,
never becomes complete, or hangs.
"""

import argparse
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))  # its small models and services
from soak_faults import FAULTS
from soak_places import Lab, OnHosts, OnStore, Service, is_there
from soak_processes import adopt_orphans, end_all
from soak_run import Disturbed, Outcome, draw_events
from soak_studies import KINDS, PLACES, ROOT, Scene, as_json, said_by

ENVIRONMENT = {
    "PYTHONFAULTHANDLER": "1",
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    "RAY_enable_metrics_collection": "0",
    "TERM": "dumb",
}
"""Variables of each driver."""


class Soak:
    """Studies of one seed.

    Args:
        out: Folder of everything that is kept; new.
        seed: Of all that is drawn.
        only: Kinds and places of the studies; of each all, if none is named.
    """

    def __init__(self, out: Path, seed: int, only: list[str]):
        self.out, self.seed = out, seed
        self.has_root = os.geteuid() == 0
        kinds = [kind for kind in KINDS if kind in only] or list(KINDS)
        places = [place for place in PLACES if place in only] or list(filter(is_there, PLACES))
        self._pairs = [(kind, place) for place in places for kind in kinds]
        self._references: dict[str, Path] = {}
        self._service: Service | None = None
        self._lab: Lab | None = None
        out.mkdir(parents=True)
        os.environ["XDG_CACHE_HOME"] = str(out / "working folders")

    def study(self, number: int) -> Outcome:
        """Run one study; its faults depend on the seed and its number alone."""
        round_, turn = divmod(number, len(self._pairs))
        pairs = Random(f"{self.seed} round {round_}").sample(self._pairs, len(self._pairs))
        kind, place = pairs[turn]
        events = draw_events(Random(f"{self.seed} study {number}"), place, self.has_root)
        outcome = Outcome(number, kind, place, events)
        reference = self._reference(kind)
        with self._scene(kind, f"{number:03d}-{kind}-{place}", place) as scene:
            if any(FAULTS[event.fault].needs_disk for event in events):
                scene.mount_disks()
            Disturbed(scene, outcome, self._kept).run(reference)
        (scene.home / "outcome.json").write_text(as_json(outcome.as_dict()))
        return outcome

    def _reference(self, kind: str) -> Path:
        """Return the folder of the study that nothing disturbs."""
        if kind not in self._references:
            with self._scene(kind, f"reference-{kind}") as scene:
                scene.begin()
                assert scene.driver is not None
                if scene.driver.wait() != 0:
                    raise RuntimeError(said_by(scene.home / "driver-00.log"))
            self._references[kind] = scene.folder
        return self._references[kind]

    @contextmanager
    def _scene(self, kind: str, name: str, place: str = "folder") -> Iterator[Scene]:
        """Yield a scene; at the end, nothing that it has started is left, whatever happens."""
        scene = self._make_scene(kind, self.out / name, place)
        if place != "hosts":
            scene.kept = self._kept
        try:
            yield scene
        finally:
            end_all(self._kept())
            if scene.driver is not None:
                scene.driver.wait()
            scene.close()

    def _make_scene(self, kind: str, home: Path, place: str) -> Scene:
        if place == "s3":
            self._service = self._service or Service(self.out / "moto")
            return OnStore(kind, home, ENVIRONMENT, self._service)
        if place == "hosts":
            self._lab = self._lab or Lab(self.out / "hosts")
            return OnHosts(kind, home, ENVIRONMENT, self._lab)
        return Scene(kind, home, ENVIRONMENT)

    def _kept(self) -> set[int]:
        """Return the processes that serve all studies."""
        moto = set() if self._service is None else {self._service.moto.process.pid}
        return moto if self._lab is None else moto | self._lab.hosts.outer_pids()

    def close(self) -> None:
        """End what serves all studies."""
        for service in (self._service, self._lab):
            if service is not None:
                service.close()


def table(outcomes: list[Outcome], seconds: float, seed: int) -> str:
    """Return the table of a soak in Markdown."""
    studies = Counter((o.kind, o.place) for o in outcomes)
    faults = sum((o.faults for o in outcomes), Counter[str]())
    missed = sum((o.missed for o in outcomes), Counter[str]())
    differences = sum(len(o.differences) for o in outcomes)
    rows = [
        ("studies", len(outcomes)),
        *((f"{kind}, {place}", count) for (kind, place), count in sorted(studies.items())),
        ("calls of their drivers", sum(o.calls for o in outcomes)),
        ("of them ended with one sentence", sum(o.sentences for o in outcomes)),
        ("faults", sum(faults.values())),
        *((f"fault: {name}", faults[name]) for name in FAULTS),
        ("faults that met nothing", sum(missed.values())),
        ("epochs computed twice", sum(o.epochs_twice for o in outcomes)),
        ("epochs lost (their record was cut)", sum(o.epochs_lost for o in outcomes)),
        ("trials that failed and were run again", sum(o.failed_trials for o in outcomes)),
        ("differences", differences),
    ]
    lines = [f"Seed {seed}, {seconds / 60:.0f} minutes.", "", "| | count |", "|---|--:|"]
    lines += [f"| {name} | {count} |" for name, count in rows]
    for title, name in (("Differences", "differences"), ("To look at", "found")):
        said = [(o, text) for o in outcomes for text in getattr(o, name)]
        if said:
            lines += ["", f"{title}:", ""]
            lines += [f"- study {o.number} ({o.kind}, {o.place}): {text}" for o, text in said]
    return "\n".join(lines) + "\n"


def main(words: list[str] | None = None) -> int:
    """Run studies until the time is over; write the table."""
    flags = parse(words)
    adopt_orphans()
    # a background job of a script ignores Ctrl-C, and nohup SIGHUP; then so would the drivers
    signal.signal(signal.SIGHUP, lambda *_: None)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    out = flags.out or Path("runs") / f"soak-{time.strftime('%Y%m%d-%H%M%S')}"
    soak, outcomes, began = (
        Soak(out.absolute(), flags.seed, flags.only),
        list[Outcome](),
        time.time(),
    )
    try:
        number = 0 if flags.replay is None else flags.replay
        while not outcomes or (flags.replay is None and time.time() - began < 60 * flags.minutes):
            outcome = soak.study(number)
            outcomes.append(outcome)
            print(one_line(outcome), flush=True)
            number += 1
    except KeyboardInterrupt:
        print("interrupted; the study that ran is not counted", file=sys.stderr)
    finally:
        soak.close()
        seconds = time.time() - began
        text = table(outcomes, seconds, flags.seed)
        (out / "soak.md").write_text(text)
        every = [outcome.as_dict() for outcome in outcomes]
        values = {"seed": flags.seed, "seconds": seconds, "only": flags.only, "studies": every}
        (out / "soak.json").write_text(as_json(values))
    print(f"\n{text}\nLogs are in {out}.")
    return int(not outcomes or any(outcome.differences for outcome in outcomes))


def one_line(outcome: Outcome) -> str:
    """Return what became of a study, for the terminal."""
    faults = ", ".join(f"{n} x {name}" for name, n in outcome.faults.items()) or "no fault"
    end_ = f"{len(outcome.differences)} differences"
    return (
        f"{outcome.number:3} {outcome.kind} {outcome.place} {outcome.seconds:.0f} s, "
        f"{outcome.calls} calls, {faults}: {end_}"
    )


def parse(words: list[str] | None) -> argparse.Namespace:
    """Return the flags."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0, help="no study begins after these")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="new folder of all logs (runs/soak-<time>)")
    parser.add_argument("--replay", type=int, metavar="N", help="run study N of the seed alone")
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        default=[],
        metavar="KINDS",
        help=f"some of {', '.join([*KINDS, *PLACES])}, separated by commas",
    )
    flags = parser.parse_args(words)
    if unknown := [word for word in flags.only if word not in (*KINDS, *PLACES)]:
        parser.error(f"--only must be of {', '.join([*KINDS, *PLACES])}, but got {unknown[0]}")
    if flags.out is not None and flags.out.exists():
        parser.error(f"--out must be a new folder, but {flags.out} exists")
    return flags


if __name__ == "__main__":
    sys.exit(main())
