"""What distillation must beat, and what makes it better: ten methods, tuned by the same budget.

    python experiments/rivals.py --images 300
    python experiments/rivals.py --images 2000 --epochs 10 --samples 6 --repeats 5

The teacher, the student and the data are those of the default study. Each method is a study of its
own: by default a random search over 16 configurations, a race with early stopping, the best three
confirmed on new repeats, and final numbers on eight repeats that no decision has seen. All studies
have the same repeats, so their final students are compared in pairs, by repeat and by test image.
The learning rate has the same range in all of them; the other ranges are those that the methods'
authors search.

The same command resumes an interrupted experiment; `--table` prints the table of what is there.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

import kdtune
from kdtune import Range, Study
from kdtune.config.study import fashion
from kdtune.results.design import p_value
from kdtune.results.formatting import interval_words, plus_minus
from kdtune.results.several import SideBySide, load_several

LR = Range(0.003, 0.1, log=True)
ALPHA = Range(0.003, 0.9, logit=True)
TEMPERATURE = Range(1.0, 20.0, log=True)


@dataclass(frozen=True)
class Method:
    """One way to train the student, with what is searched besides the learning rate."""

    run: Mapping[str, Any]
    space: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_teacher(self) -> bool:
        """Whether the student learns from the teacher."""
        return self.run.get("alpha") != 1.0


def _distilled(loss: str, **space: Any) -> Method:
    return Method({"loss": loss}, {"alpha": ALPHA, **space})


METHODS = {
    "plain": Method({"alpha": 1.0}),
    "label smoothing": Method({"alpha": 1.0}, {"label_smoothing": Range(0.02, 0.5, log=True)}),
    "mixup": Method({"alpha": 1.0}, {"mixup": Range(0.05, 2.0, log=True)}),
    "kl": _distilled("kl", temperature=TEMPERATURE),
    "mse": _distilled("mse"),
    "dkd": _distilled("dkd", temperature=TEMPERATURE, dkd_beta=Range(0.5, 8.0, log=True)),
    "ls": _distilled("ls", temperature=Range(1.0, 6.0)),
    "dist": _distilled("dist", temperature=Range(1.0, 6.0)),
    "features": _distilled(
        "kl+features_mse", temperature=TEMPERATURE, loss_weight=Range(0.1, 100.0, log=True)
    ),
    "unlabelled": Method(
        {"loss": "kl", "extra": "rest", "extra_share": 0.75},
        {"alpha": ALPHA, "temperature": TEMPERATURE},
    ),
}
"""The first one is the reference. "unlabelled" is kl in whose batches three of four images
are the rest of train, without their labels."""


def study_of(name: str, options: argparse.Namespace) -> Study:
    """Return the study of a method."""
    method, images = METHODS[name], options.images
    labelled = None if images == 2000 else images
    # an epoch is a pass over the labelled images: all methods are to take as many steps
    epochs = round(options.epochs * (1 - method.run.get("extra_share", 0)))
    values: dict[str, Any] = {"train_images": labelled, "epochs": epochs, **method.run}
    return Study(
        name=f"rivals-{images}-{name.replace(' ', '-')}",
        out=options.out,
        run=replace(fashion().run, **values),
        space={"lr": LR, **method.space},
        search="random",
        samples=options.samples,
        plain_share=0.0,
        policy="race",
        stop_early=True,
        repeats=options.repeats,
        gpus=0,
        keep="none",
    )


def best_rival(studies: Mapping[str, kdtune.Results]) -> str:
    """Return the method without a teacher that is best on val."""
    scores = {}
    for name, results in studies.items():
        table = results.selection()
        if not METHODS[name].has_teacher:
            scores[name] = table.loc[table.row == "best", "val/mean"].item()
    return max(scores, key=scores.__getitem__)


def table(studies: Mapping[str, kdtune.Results], side: SideBySide) -> pd.DataFrame:
    """Return one row per method: its final numbers on test, and the difference from the reference.

    Args:
        studies: results by method.
        side: the same studies side by side, the reference first.
    """
    differences = side.comparisons[side.comparisons.split == "test"].set_index("study")
    rows = []
    for name, results in studies.items():
        chosen = side.best[(side.best.study == results.study.name) & side.best.is_best].iloc[0]
        row = {"method": name, "chosen": chosen.label, "runs": len(results.trials)}
        row["val"] = plus_minus(100 * chosen["val/mean"], 100 * chosen["val/std"])
        row["test"] = plus_minus(100 * chosen["test/mean"], 100 * chosen["test/std"])
        if results.study.name in differences.index:
            d = differences.loc[results.study.name]
            row["difference"] = f"{100 * d['diff']:+.1f}"
            row["95% CI"] = interval_words(d.low, d.high, 100)
            row["p (Holm)"] = p_value(d.p_holm)
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def show(options: argparse.Namespace) -> None:
    """Print the tables against plain training and against the best rival without a teacher."""
    folders = {name: Path(study_of(name, options).folder) for name in options.methods}
    found = {name: kdtune.load(folder) for name, folder in folders.items() if folder.is_dir()}
    for reference in dict.fromkeys((next(iter(found)), best_rival(found))):
        order = [reference, *(name for name in found if name != reference)]
        side = load_several([str(folders[name]) for name in order])
        print(f"\n{options.images} labelled images; test accuracy (%), difference from {reference}")
        print(
            table({name: found[name] for name in order}, side).to_markdown(
                index=False, disable_numparse=True
            )
        )


def main() -> None:
    """Run the studies that are missing, then print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=300, help="labelled images, up to 2000")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--samples", type=int, default=16, help="configurations of each method")
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--out", default="runs")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--table", action="store_true", help="only print the tables")
    options = parser.parse_args()
    if options.images == 2000 and "unlabelled" in options.methods:
        options.methods.remove("unlabelled")  # there are no other images
    for name in [] if options.table else options.methods:
        print(f"\n== {name}", flush=True)
        kdtune.run(study_of(name, options))
    show(options)


if __name__ == "__main__":
    main()
