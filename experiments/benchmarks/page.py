"""Text of docs/benchmarks.md: the sentences of page.txt, and the numbers of results.csv."""

import statistics
from pathlib import Path
from typing import Any

Row = dict[str, Any]
STUDIES = {
    "default": "The default study",
    "ants": "Ants and bees",
}
ABOUT = {
    "default": "CNN with 24,000 parameters → CNN with 3,700 on Fashion-MNIST, 300 labelled images; "
    "alpha and temperature are searched.",
    "ants": "EfficientNet-Lite2 → Lite0 with ImageNet weights on 244 photographs of 160 pixels, "
    "only heads trained; alpha is searched.",
}
TOOLS = ("kdtune", "plain loop", "Ray Tune", "Optuna", "torchdistill")
EPOCHS = {"default": 60, "ants": 2}
TEXT = Path(__file__).with_name("page.txt")


def page(rows: list[Row]) -> str:
    """Return the page."""
    parts = []
    for study, title in STUDIES.items():
        some = [row for row in rows if row["study"] == study]
        if some:
            parts.append(section(title, ABOUT[study], some))
    text = TEXT.read_text("utf-8")
    return text.replace("<!-- tables -->\n", "\n".join(parts))


def section(title: str, about: str, rows: list[Row]) -> str:
    """Return the table of a study, with medians over its rounds."""
    first, lines = rows[0], []
    runs, epochs = int(first["runs"]), int(first["epochs"])
    rounds = len({row["round"] for row in rows})
    times = "one round" if rounds == 1 else f"medians of {rounds} rounds, in turn"
    busy = "; the machine did other work, too" if first["busy"] == "yes" else ""
    lines += [f"## {title}", "", f"{about} {runs} students of {epochs // runs} epochs.", ""]
    lines += [
        "| tool | seconds | lines | printed | memory, MB | baseline, % | best | its accuracy, % |"
    ]
    lines += ["|---|--:|--:|--:|--:|--:|---|--:|"]
    seconds = {}
    for tool in dict.fromkeys(row["tool"] for row in rows):
        of_it = [row for row in rows if row["tool"] == tool]

        def middle(name: str, some: list[Row] = of_it) -> float:
            return statistics.median(float(row[name]) for row in some)

        seconds[tool] = middle("seconds")
        share, best = 100 * middle("baseline"), 100 * middle("best_accuracy")
        written = "1 command" if tool == "kdtune" else of_it[0]["lines"]
        cells = [tool, f"{seconds[tool]:,.0f}", written, f"{middle('printed'):,.0f}"]
        cells += [f"{middle('memory_mb'):,.0f}", f"{share:.1f}", of_it[0]["best"], f"{best:.1f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    others = {
        tool: value / seconds["kdtune"] for tool, value in seconds.items() if tool != "kdtune"
    }
    ratios = ", ".join(f"{tool} {value:.1f}" for tool, value in others.items())
    lines += ["", f"Seconds as multiples of kdtune's: {ratios}."]
    faster = [tool for tool, value in others.items() if value < 1]
    if faster:
        lines += [f"kdtune was slower than: {', '.join(faster)}."]
    lines += [
        f"Measured on {first['date']}, {first['machine']}, {times}{busy}: {first['versions']}."
    ]
    if missing := [tool for tool in TOOLS if tool not in seconds]:
        lines += [f"Not measured in this run: {', '.join(missing)}."]
    if epochs < runs * EPOCHS.get(first["study"], 0):
        lines += [
            "It was a quick try with fewer epochs than the study has: no comparison of tools."
        ]
    return "\n".join([*lines, ""])
