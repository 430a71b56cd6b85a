"""What is shown of a study, against its plan; on a terminal and off it."""

import io
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from play import play
from rich.console import Console
from simulated_runs import LISTS, curve, faulty, make

from kdtune.planning.ledger import finalists, is_decided
from kdtune.planning.plan import Plan
from kdtune.raytune.progress import ProgressDisplay, describe_state, make_table, print_recipe
from kdtune.streams.cache import Cache

KINDS = ("output", "update", "update")


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


@pytest.fixture
def in_notebook(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """A notebook's kernel; what its cell gets: (first output or update, text)."""
    shown: list[tuple[str, str]] = []

    class Handle:
        def update(self, content: dict[str, str], raw: bool) -> None:
            shown.append(("update", content["text/plain"]))

    def display(content: dict[str, str], raw: bool, display_id: bool = False) -> Handle:
        assert raw and set(content) <= {"text/plain", "text/html"}
        shown.append(("output", content.get("text/html", content["text/plain"])))
        return Handle()

    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr("kdtune.raytune.progress.REFRESH_SECONDS", 0.0)
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    return shown


def test_a_notebook_has_one_output_that_is_replaced(in_notebook, capsys) -> None:  # type: ignore[no-untyped-def]
    study = make("grid", LISTS, "all")
    plan = Plan(study, play(study, curve))
    with ProgressDisplay(plan, Cache(gigabytes=0)) as display:
        display.print_line("a line")
        for repeat in range(300):
            display.advance(f"  alpha 0.1, repeat {repeat}: val acc 0.7")
            display.refresh()
        display.refresh()  # nothing is new, so nothing is sent
    kinds, texts = zip(*in_notebook, strict=True)
    assert kinds == ("output", *["update"] * 300) and capsys.readouterr().out == "a line\n"
    assert "alpha 0.1, repeat 298: val acc 0.7" in texts[298]
    assert "300 of 0 runs ended: 60 completed, best distilled" in texts[-1]
    assert "val acc 0.7\n" not in texts[-1] and "\x1b" not in "".join(texts)


def test_failed_runs_keep_their_line_in_a_notebook(in_notebook, capsys) -> None:  # type: ignore[no-untyped-def]
    with ProgressDisplay(Plan(make("grid", LISTS, "all")), Cache(gigabytes=0)) as display:
        display.advance("  alpha 0.1, repeat 0: val acc 0.7")
        display.advance("  alpha 0.1, repeat 1: out of memory", failed=True)
        for epoch in range(3):
            display.print_epoch(f"  epoch {epoch}")
    assert capsys.readouterr().out == "  alpha 0.1, repeat 1: out of memory\n"
    assert in_notebook[:3] == [(kind, f"  epoch {i}") for i, kind in enumerate(KINDS)]


def test_a_recipe_is_folded_in_a_notebook(in_notebook, capsys) -> None:  # type: ignore[no-untyped-def]
    print_recipe("Recipe of <runs>:", ["  setting  value", "  data     a & b"])
    ((kind, html),) = in_notebook
    assert kind == "output" and html.startswith("<details><summary>Recipe of &lt;runs&gt;:</sum")
    assert "a &amp; b" in html and capsys.readouterr().out == ""


def test_a_recipe_is_printed_elsewhere(capsys) -> None:  # type: ignore[no-untyped-def]
    print_recipe("Recipe:", ["  setting"])
    assert capsys.readouterr().out == "Recipe:\n  setting\n"


def test_outside_notebooks_every_run_has_a_line(capsys) -> None:  # type: ignore[no-untyped-def]
    with ProgressDisplay(Plan(make("grid", LISTS, "all")), Cache(gigabytes=0)) as display:
        display.advance("  alpha 0.1: val acc 0.7")
        display.print_epoch("  epoch 0")
    assert capsys.readouterr().out == "  alpha 0.1: val acc 0.7\n  epoch 0\n"
