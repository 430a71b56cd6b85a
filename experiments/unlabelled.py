"""What are images without labels worth? 300 labelled Fashion-MNIST images and 1,700 others.

    python experiments/unlabelled.py

Data, teacher and student are those of the default study. Each arm is a study of its own, and all
have the same number of steps of 64 images and of configurations: an epoch is a pass over the
labelled images, so an arm with fewer of them in a batch has fewer epochs. Arms have the same
repeats, so their students are compared in pairs, by repeat and by test image; val chooses the
configuration of each arm. The teacher was fine-tuned on all 2,000 images.

The same command resumes an interrupted experiment; `--table` prints the table of what is there.
"""

import argparse
from dataclasses import dataclass, replace

import pandas as pd

import kdtune
from kdtune import Study
from kdtune.config.study import fashion
from kdtune.results.design import p_value
from kdtune.results.formatting import interval_words, plus_minus
from kdtune.results.several import load_several

BATCH = 64
TEMPERATURES = (1.0, 4.0)
LR = {False: (0.005, 0.01, 0.02, 0.04), True: (0.01, 0.03)}
"""By whether there is a teacher: of four configurations each, those with one vary T as well."""


@dataclass(frozen=True)
class Arm:
    """One way to train the student."""

    labelled: int
    distils: bool = True
    share: float = 0.0
    """Of each batch that has no labels."""

    @property
    def name(self) -> str:
        """Name of its study."""
        how = "kl" if self.distils else "plain"
        return f"unlabelled-{how}-{self.labelled}" + f"-share-{self.share:g}" * (self.share > 0)

    def study(self, options: argparse.Namespace) -> Study:
        """Return its study."""
        run = replace(
            fashion().run,
            train_images=None if self.labelled == 2000 else self.labelled,
            alpha=0.1 if self.distils else 1.0,
            batch_size=BATCH,
        )
        if self.share > 0:
            run = replace(run, extra="rest", extra_share=self.share)
        if self != ARMS[0]:  # whose teacher is that of all
            weights = str(ARMS[0].study(options).folder)
            run = replace(run, teacher_weights=weights, teacher_epochs=0)
        in_an_epoch = -(-self.labelled // (BATCH - run.unlabelled_per_batch))
        space: dict[str, tuple[float, ...]] = {"lr": LR[self.distils]}
        return Study(
            name=self.name,
            out=options.out,
            run=replace(run, epochs=round(options.steps / in_an_epoch)),
            space=space | ({"temperature": TEMPERATURES} if self.distils else {}),
            plain_share=0.0,
            repeats=options.repeats,
            keep="none",
        )


ARMS = (
    Arm(300),
    Arm(300, distils=False),
    *(Arm(300, share=share) for share in (0.5, 0.75, 0.85)),
    Arm(2000),
    Arm(2000, distils=False),
)
"""The first one is the reference."""


def table(options: argparse.Namespace) -> pd.DataFrame:
    """Return one row per arm: its accuracy on test, and the difference from the reference."""
    side = load_several([str(arm.study(options).folder) for arm in ARMS])
    differences = side.comparisons[side.comparisons.split == "test"].set_index("study")
    rows = []
    for arm in ARMS:
        study = arm.study(options)
        best = side.best[(side.best.study == study.name) & side.best.is_best].iloc[0]
        row = {
            "labelled": arm.labelled,
            "others": 2000 - arm.labelled if arm.share else 0,
            "share": f"{arm.share:g}" if arm.share else "",
            "method": "kl" if arm.distils else "plain",
            "epochs": study.run.epochs,
            "chosen": best.label,
            "test": plus_minus(100 * best["test/mean"], 100 * best["test/std"]),
        }
        if study.name in differences.index:
            own = differences.loc[study.name]
            row |= {"difference": f"{100 * own['diff']:+.1f}", "p (Holm)": p_value(own.p_holm)}
            row["95% CI"] = interval_words(own.low, own.high, 100)
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def main() -> None:
    """Run the studies that are missing, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--out", default="runs")
    parser.add_argument("--table", action="store_true", help="only print the table")
    options = parser.parse_args()
    for arm in () if options.table else ARMS:
        print(f"\n== {arm.name}", flush=True)
        kdtune.run(arm.study(options))
    print(f"\ntest accuracy (%), difference from {ARMS[0].name}")
    print(table(options).to_markdown(index=False))


if __name__ == "__main__":
    main()
