"""What is shown of a study, against its plan; on a terminal and off it."""

import io
from dataclasses import replace

from play import play
from rich.console import Console
from simulated_runs import LISTS, curve, faulty, make

from kdtune.planning.plan import Plan
from kdtune.planning.standing import finalists, is_decided
from kdtune.raytune.progress import ProgressDisplay, describe_state, make_table
from kdtune.streams.cache import Cache


def shown(plan: Plan) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(make_table(plan))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_table_has_the_best_and_plain_training() -> None:
    study = make("grid", LISTS, "all")
    plan = Plan(study, play(study, curve))
    ((plain, distilled),) = finalists(plan.ledger)
    text = shown(plan)
    for tried in (plain, distilled):
        mean = sum(tried.scores.values()) / 4
        assert f"4 │ {mean:.4f} ± " in text
    assert "60 completed, best distilled minus best baseline " in " ".join(text.split())


def test_failures_and_stops_are_counted() -> None:
    study = make("grid", LISTS, "race", stop_early=True)
    plan = Plan(study, play(study, faulty))
    ends = [status for tried in plan.ledger.by_row for status in tried.status.values()]
    for status in ("completed", "failed", "pruned"):
        if status in ends:
            assert f"{ends.count(status)} {status}" in describe_state(plan)
    assert "over 4 final repeats" in describe_state(plan)


def test_whether_it_is_decided() -> None:
    study = replace(make("grid", {"alpha": (0.1, 1.0)}, "all"), until_decided=True, budget="99runs")
    plan = Plan(study, play(study, curve))
    assert is_decided(plan.ledger) and ", decided (always-valid p = 0.0" in describe_state(plan)
    small = replace(study, budget="14runs")
    plan = Plan(small, play(small, curve))
    assert ", not decided (always-valid p" in describe_state(plan)


def test_a_study_that_has_not_begun() -> None:
    plan = Plan(make("grid", LISTS, "all"))
    assert describe_state(plan) == "" and "lr" in shown(plan)


def test_lines_where_there_is_no_terminal(capsys) -> None:  # type: ignore[no-untyped-def]
    study = make("grid", LISTS, "all")
    with ProgressDisplay(Plan(study, play(study, curve)), Cache(gigabytes=0)) as display:
        display.refresh()
        display.print_line("a line")
        display.refresh()  # too early for another
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[0].startswith("  60 completed") and lines[1] == "a line"
