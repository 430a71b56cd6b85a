"""Faults sown on purpose, each of which the named fast tests must find.

The package is copied, one passage of it replaced, and the tests are run on the copy in a process of
their own: a test that no fault can fail says nothing. The faults are common in
tools for such studies.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Mutant:
    file: str
    old: str
    new: str
    tests: str
    """Test files that must fail: PACKAGE/MODULE of tests/PACKAGE/test_MODULE.py."""


MUTANTS = {
    "ddof 0": Mutant(
        "statistics/intervals.py",
        "x.std(ddof=1)",
        "x.std(ddof=0)",
        "statistics/intervals results/summaries",
    ),
    "ddof 0 in the band": Mutant(
        "reporting/learning_curves.py",
        'std="std"',
        "std=lambda x: x.std(ddof=0)",
        "reporting/figures",
    ),
    "standard error for sd": Mutant(
        "statistics/intervals.py",
        "return Interval(mean, sd, n, max(mean - half",
        "return Interval(mean, sd / math.sqrt(n), n, max(mean - half",
        "statistics/intervals results/summaries",
    ),
    "1.96 for t": Mutant(
        "statistics/intervals.py",
        "float(stdtrit(n - 1, (1 + level) / 2)) * sd",
        "1.96 * sd",
        "statistics/intervals results/summaries",
    ),
    "Holm without the running maximum": Mutant(
        "statistics/multiplicity.py",
        "running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))",
        "running = min(1.0, (len(p_values) - rank) * p_values[i])",
        "statistics/multiplicity",
    ),
    "Holm of the first step alone": Mutant(
        "statistics/multiplicity.py",
        "(len(p_values) - rank) * p_values[i]",
        "p_values[i]",
        "statistics/multiplicity results/comparison",
    ),
    "max-T in a single step": Mutant(
        "statistics/multiplicity.py",
        "highest[:, rank] >=",
        "highest[:, 0] >=",
        "statistics/multiplicity",
    ),
    "unpaired when paired": Mutant(
        "statistics/intervals.py",
        "    d = x - y\n    interval = mean_interval(d, level)",
        "    d = x - y\n    interval = mean_interval(np.sort(x) - np.sort(y), level)",
        "statistics/intervals results/comparison",
    ),
    "equal differences have p = 0": Mutant(
        "statistics/intervals.py",
        "if interval.sd <= tiny:",
        "if False:",
        "statistics/intervals",
    ),
    "power of one tail": Mutant(
        "statistics/power.py", "for sign in (1, -1)]", "for sign in (-1,)]", "statistics/power"
    ),
    "always-valid p of the smallest so far": Mutant(
        "statistics/sequential.py",
        "log_bf = -0.5 * math.log1p(n)",
        "log_bf = 0.0",
        "statistics/sequential",
    ),
    "noise with the repeats' effects": Mutant(
        "statistics/racing.py",
        "((contrasts - contrasts.mean()) ** 2)",
        "(contrasts**2)",
        "statistics/racing",
    ),
    "interim analyses at the full level": Mutant(
        "statistics/racing.py",
        "1 - level / (analyses or scores.shape[1])",
        "1 - level",
        "statistics/racing planning/plan",
    ),
    "means with the repeats' effects": Mutant(
        "statistics/racing.py",
        "means - mask @ effects / sizes",
        "means",
        "statistics/racing planning/warm_start",
    ),
    "pruning by the sign alone": Mutant(
        "statistics/early_stopping.py",
        "slope > 0 and slope * gap > margin",
        "gap > 0",
        "statistics/early_stopping",
    ),
    "no pruning": Mutant(
        "planning/plan.py",
        'if is_behind(self.ledger.score(epoch["splits"]["val"]), completed):',
        "if False:",
        "planning/plan",
    ),
    "interrupted runs are forgotten": Mutant(
        "planning/plan.py",
        "self._requeued |= self.ledger.running",
        "pass",
        "planning/plan",
    ),
    "failed runs are not repeated": Mutant(
        "planning/plan.py",
        "self._requeued |= self.ledger.retryable",
        "pass",
        "planning/plan",
    ),
    "a phase begins before the last one ends": Mutant(
        "planning/plan.py",
        "if run is not None or phase in in_flight:",
        "if run is not None:",
        "planning/plan",
    ),
    "the baseline lags behind in a race": Mutant(
        "planning/plan.py",
        "if len(baseline.scores) < len(best.scores) and",
        "if False and",
        "planning/plan",
    ),
    "diverged runs are repeated": Mutant(
        "planning/ledger.py",
        'not str(error).startswith("Diverged")',
        "True",
        "planning/ledger",
    ),
    "failed configurations keep their scores": Mutant(
        "planning/ledger.py",
        "scores = {} if state.excluded else state.scores",
        "scores = state.scores",
        "planning/ledger",
    ),
    "a failed final repeat excludes a finalist": Mutant(
        "planning/ledger.py",
        'in ("failed", "pruned", "dropped") and phase_of(repeat) != "final"',
        'in ("failed", "pruned", "dropped")',
        "planning/standing",
    ),
    "a round goes on after the search was extended": Mutant(
        "planning/ledger.py",
        "            self.is_round_over = True\n",
        "            self.is_round_over = False\n",
        "planning/rounds",
    ),
    "the better finalist on the final repeats is the best": Mutant(
        "results/study_data.py",
        "recorded = self.frames.round is not None and",
        "recorded = False and",
        "results/context",
    ),
    "a restored run lacks its score": Mutant(
        "planning/ledger.py",
        "if dropped.score is not None:",
        "if dropped.score is None:",
        "planning/ledger",
    ),
    "unpaired repeats have pooled degrees of freedom": Mutant(
        "statistics/intervals.py",
        "df = 1 / ((e_a / error) ** 4 / (n_a - 1) + (e_b / error) ** 4 / (n_b - 1))",
        "df = n_a + n_b - 2",
        "statistics/intervals results/side_by_side",
    ),
    "repeats of other seeds are paired": Mutant(
        "results/setups.py",
        '("seed", "train_images", ',
        '("train_images", ',
        "results/side_by_side",
    ),
    "resumed epochs are paid twice": Mutant(
        "planning/ledger.py",
        'if line["epoch"] >= self._epochs.get(trial_id, 0):',
        "if True:",
        "planning/ledger",
    ),
    "finalists by the search alone": Mutant(
        "planning/standing.py",
        "rivals = confirmed or arm",
        "rivals = arm",
        "planning/standing",
    ),
    "images do not count for a decision": Mutant(
        "statistics/sequential.py",
        "return low - extra, high + extra",
        "return low, high",
        "statistics/sequential",
    ),
    "more repeats where images cannot decide": Mutant(
        "planning/plan.py",
        "in decidable(self.ledger)",
        "in finalists(self.ledger)",
        "planning/standing",
    ),
    "the winner's own difference is the truth": Mutant(
        "statistics/power.py",
        "return float(d[index]) * factor",
        "return float(d[index])",
        "statistics/power",
    ),
    "an undecided study stops": Mutant(
        "planning/standing.py",
        "if not final_test(ledger, pair).excludes_0(level)",
        "if not final_test(ledger, pair).excludes_0(0.999)",
        "planning/standing",
    ),
    "one baseline for all students": Mutant(
        "results/comparison.py",
        'return configs["config/student"]',
        'return pd.Series("", index=configs.index)',
        "results/within_students",
    ),
    "students pruned by each other": Mutant(
        "planning/ledger.py",
        "Arm(run.group, run.is_baseline)",
        'Arm("", run.is_baseline)',
        "planning/students",
    ),
    "logits of an ensemble averaged": Mutant(
        "models/ensemble.py",
        "mean = log_p.logsumexp(0) - math.log(len(logits))",
        "mean = log_p.mean(0)",
        "models/ensemble",
    ),
    "plain training for each teacher": Mutant(
        "config/run_teacher.py",
        'Hyperparameter(unless={"alpha": 1}, of_study=True)] = "resnet50"',
        'Hyperparameter(of_study=True)] = "resnet50"',
        "config/study",
    ),
    "running trials are ignored": Mutant(
        "planning/proposals.py",
        "constant_liar=True",
        "constant_liar=False",
        "planning/proposals",
    ),
    "a suggestion that is known already": Mutant(
        "planning/proposals.py",
        "run.config_id not in self._trials and ",
        "",
        "planning/proposals planning/plan",
    ),
    "log-odds sampled as they are": Mutant(
        "planning/distributions.py",
        "    if not values.logit:",
        "    if True:",
        "planning/distributions",
    ),
    "alphas close to 1 rounded to three digits": Mutant(
        "planning/distributions.py",
        "float(short(float(expit(odds)), DIGITS))",
        'float(f"{expit(odds):.3g}")',
        "planning/distributions",
    ),
    "weight decay of a converted recipe stays": Mutant(
        "config/conversion.py",
        '"lr": scale, "weight_decay": 1 / scale}',
        '"lr": scale}',
        "training/conventions config/conversion",
    ),
    "division by the number of classes forgotten": Mutant(
        "config/conventions.py",
        "share = weight / _number_of_classes(p)",
        "share = weight",
        "training/conventions config/conversion",
    ),
    "inactive hyperparameters are reported": Mutant(
        "planning/proposals.py",
        "[name for name in several if config[name] is not None]",
        "several",
        "planning/proposals",
    ),
    "one seed for all suggestions": Mutant(
        "planning/proposals.py",
        'derive_seed("propose", self.study.run.seed, number, i)',
        'derive_seed("propose", 0, number, i)',
        "planning/proposals",
    ),
    "warm start by the common repeats": Mutant(
        "planning/warm_start.py",
        "return -last_phase, state.row not in active, -float(means[state.row])",
        "return 0, False, -state.scores[0]",
        "planning/warm_start",
    ),
    "paired by position": Mutant(
        "results/pairs.py",
        "values.loc[repeats, [config, baseline]].to_numpy().T",
        "np.sort(values.loc[repeats, [config, baseline]].to_numpy().T)",
        "results/comparison",
    ),
    "pooled epochs in the summary": Mutant(
        "results/frames.py",
        "groups.tail(1).set_index",
        "groups.mean(numeric_only=True).reset_index().set_index",
        "results/frames results/summaries",
    ),
    "nanmean over failed repeats": Mutant(
        "results/comparison.py",
        'return trials[trials.status == "completed"]',
        "return trials",
        "results/summaries results/wording results/comparison",
    ),
    "a truncated run counts": Mutant(
        "storage/record_check.py",
        "self._seen.get(trial, 0) >= max(1, self._planned[trial] or 0)",
        "True",
        "results/diagnostics results/summaries",
    ),
    "legend from the first run": Mutant(
        "reporting/learning_curves.py",
        'axes.plot(x, line["mean"], label',
        "axes.plot(x, trials[0][metric].iloc[: len(x)], label",
        "reporting/figures",
    ),
    "n of the study, not of the curve": Mutant(
        "reporting/learning_curves.py",
        "sorted({line.n.min(), line.n.max()})",
        "[4]",
        "reporting/figures",
    ),
    "classes not corrected for their number": Mutant(
        "results/classes.py",
        "1 - SIGNIFICANCE_LEVEL / len(numbers)",
        "1 - SIGNIFICANCE_LEVEL",
        "results/classes",
    ),
    "a confidence on an edge belongs to the bin above": Mutant(
        "results/classes.py",
        "np.clip(np.ceil(confidence * ECE_BINS), 1, ECE_BINS).astype(int) - 1",
        "np.clip(np.floor(confidence * ECE_BINS), 0, ECE_BINS - 1).astype(int)",
        "results/classes",
    ),
    "images paired by their order in the file": Mutant(
        "results/arms.py",
        'rows.sort_values("example") for t',
        "rows for t",
        "results/arms",
    ),
    "the best line may be left outside": Mutant(
        "reporting/frame.py",
        'if better == "higher":',
        'if better == "lower":',
        "reporting/sections",
    ),
    "the first plain training is the baseline": Mutant(
        "results/comparison.py",
        "best_config(values[found], criterion.sign)",
        "found[0]",
        "results/comparison",
    ),
    "higher is always better": Mutant(
        "results/comparison.py",
        'return 1 if self.declared.better == "higher" else -1',
        "return 1",
        "results/comparison results/wording",
    ),
    "Holm's p alone makes a verdict": Mutant(
        "results/significance.py",
        "(p <= level if or_equal else p < level) & excludes_0",
        "(p <= level if or_equal else p < level) | (low != low)",
        "results/wording",
    ),
    "the interval for these images in the verdict": Mutant(
        "results/wording.py",
        "interval = interval_words(row.low, row.high, criterion.scale)",
        "interval = interval_words(row.low_here, row.high_here, criterion.scale)",
        "reporting/build",
    ),
    "chosen and judged on the same images": Mutant(
        "statistics/selection_bias.py",
        "kept = out.astype(float)",
        "kept = counts.astype(float)",
        "statistics/selection_bias results/sensitivity",
    ),
    "text that is not escaped": Mutant(
        "reporting/page.py",
        "autoescape=True",
        "autoescape=False",
        "reporting/page reporting/build",
    ),
    "a caption that is not escaped": Mutant(
        "reporting/page.py",
        "format(Markup(opening), figure.caption)",
        "format(Markup(opening), Markup(figure.caption))",
        "reporting/page",
    ),
    "a misspelt name in a template is empty text": Mutant(
        "reporting/page.py",
        "undefined=StrictUndefined",
        "optimized=True",
        "reporting/page",
    ),
    "a script that data can end": Mutant(
        "reporting/templates/report.html",
        "{{ data | tojson }}",
        '{{ data | tojson | list | join | replace("\\\\u003c", "<") | safe }}',
        "reporting/page reporting/build",
    ),
    "data with NaN, which is not JSON": Mutant(
        "reporting/page.py", '"allow_nan": False, ', "", "reporting/page"
    ),
    "figures with the same ids": Mutant(
        "reporting/page.py", r"\g<1>{name}-", r"\g<1>", "reporting/page reporting/build"
    ),
    "an SVG that depends on whether the PNG was drawn before": Mutant(
        "reporting/canvas.py",
        "self.figure.set_dpi(PNG_DPI)",
        "self.figure.get_dpi()",
        "reporting/figures",
    ),
    "the interval for these images in the figure": Mutant(
        "reporting/figures.py",
        "[scale * row.low, scale * row.high]",
        "[scale * row.low_here, scale * row.high_here]",
        "reporting/build",
    ),
    "the interval for these images for the best configuration": Mutant(
        "reporting/answer.py",
        'ends[["low", "high"]]',
        'ends[["low_here", "high_here"]]',
        "reporting/build",
    ),
    "one crop for all images of an epoch": Mutant(
        "data/views.py", "derive_seed(*self.key, i)", "derive_seed(*self.key)", "data/views"
    ),
    "the same views in every epoch": Mutant(
        "data/views.py", "run.repeat, epoch)", "run.repeat, 0)", "data/views"
    ),
    "flipped upside down": Mutant(
        "data/augmentations.py", "views[flip].flip(-1)", "views[flip].flip(-2)", "data/views"
    ),
    "photographs evaluated without the zoom": Mutant(
        "data/views.py", "PHOTO_CROP = 224 / 256", "PHOTO_CROP = 1.0", "data/views"
    ),
    "tables scaled like images": Mutant(
        "models/classifier.py",
        "self.preprocessing(views) if are_images(views) else views",
        "self.preprocessing(views)",
        "models/inputs",
    ),
    "a val that is also in train": Mutant(
        "data/val_cut.py",
        "for part in (~chosen, chosen)",
        "for part in (~chosen | chosen, chosen)",
        "data/val_cut",
    ),
    "a fingerprint without the cut": Mutant(
        "data/val_cut.py", "fingerprint=fingerprint, cut", "cut", "data/val_cut"
    ),
    "a fold that is also in train": Mutant(
        "data/folds.py", "in (~is_val, is_val)", "in (~is_val | is_val, is_val)", "data/folds"
    ),
    "folds without classes": Mutant(
        "data/folds.py",
        "order = order[torch.argsort(labels[order], stable=True)]",
        "pass",
        "data/folds",
    ),
    "naive t over folds": Mutant(
        "statistics/resampling.py",
        "(1 / n + val_over_train)",
        "(1 / n)",
        "statistics/resampling",
    ),
    "val resized bilinearly, whatever the interpolation": Mutant(
        "data/views.py",
        "mode = MODES[self.interpolation]",
        'mode = MODES["bilinear"]',
        "data/views",
    ),
    "the crop of timm rounded": Mutant(
        "models/preprocessing.py",
        "math.floor(size / share)",
        "round(size / share)",
        "models/preprocessing",
    ),
    "a model without preprocessing in silence": Mutant(
        "models/probe.py",
        "if not model.is_normalized:",
        "if False:",
        "models/preprocessing",
    ),
    "labels in another order than views": Mutant(
        "streams/stream.py",
        "labels[index if order is None else index[order]]",
        "labels[index]",
        "streams/stream",
    ),
    "logits of unaugmented images in another order": Mutant(
        "streams/stream.py",
        "return logits[order] if same and order is not None else logits",
        "return logits",
        "streams/stream",
    ),
    "features of unaugmented images in another order": Mutant(
        "streams/stream.py", "values = values[order]", "values = values", "streams/stream"
    ),
    "a teacher in train mode": Mutant(
        "streams/teacher_passes.py",
        "model.set_mode(False)",
        "model.set_mode(True)",
        "streams/stream",
    ),
    "running statistics that are not restored": Mutant(
        "streams/features.py",
        "            self._restore(chunk)",
        "            pass",
        "streams/stream",
    ),
    "the same dropout in every step": Mutant(
        "streams/features.py",
        "seed_step(self.run, epoch, step)",
        "seed_step(self.run, epoch, 0)",
        "streams/stream",
    ),
    "features with dropout computed once": Mutant(
        "streams/features.py", "return not drew and not kept and", "return", "streams/stream"
    ),
    "the chunk in memory whatever its key": Mutant(
        "streams/chunks.py",
        "held is not None and held[0] == key",
        "held is not None",
        "streams/stream",
    ),
    "the same order in every epoch": Mutant(
        "streams/chunks.py",
        "derive_seed(of, run.seed, run.repeat, epoch)",
        "derive_seed(of, run.seed, run.repeat)",
        "streams/chunks streams/extra",
    ),
    "images without labels from the first one in each epoch": Mutant(
        "streams/extra.py",
        "start = epoch * extra_per_epoch(",
        "start = 0 * extra_per_epoch(",
        "streams/extra",
    ),
    "as many images without labels in the last batch": Mutant(
        "streams/extra.py",
        "max(1, round(whole * labelled / run.labelled_per_batch)) if whole else 0",
        "whole",
        "streams/extra",
    ),
    "a cross-entropy of images without labels": Mutant(
        "training/losses.py", "own = batch.labelled", "own = batch", "streams/extra"
    ),
    "views of images without labels like those of train": Mutant(
        "streams/shards.py",
        'name = "view" if split == "train" else "extra view"',
        'name = "view"',
        "streams/extra",
    ),
    "a key of images without labels for every pass": Mutant(
        "streams/keys.py",
        "elif not self.same_views(split):\n            parts |=",
        "elif not self.same_views(split):\n            _ =",
        "streams/extra",
    ),
    "steps of whole batches of labelled images": Mutant(
        "streams/stream.py",
        "// self.run.labelled_per_batch)",
        "// self.run.batch_size)",
        "streams/extra",
    ),
    "images lost between batches": Mutant(
        "streams/batches.py",
        "batch[whole:] if whole < len(batch) else None",
        "None",
        "streams/chunks",
    ),
    "a key without the epoch": Mutant(
        "streams/keys.py",
        'parts |= {"repeat": run.repeat, "epoch": epoch}\n            elif',
        'parts |= {"repeat": run.repeat}\n            elif',
        "streams/keys",
    ),
    "a key of val without the crop": Mutant(
        "streams/keys.py", 'parts["crop"] = run.eval_crop', "pass", "streams/keys"
    ),
    "a key without the batch size": Mutant(
        "streams/keys.py", '"batch_size": run.labelled_per_batch, ', "", "streams/keys"
    ),
    "a key of mixed images without the mixing": Mutant(
        "streams/keys.py",
        "parts |= self._batches(epoch) | self._mixing\n",
        "parts |= self._batches(epoch)\n",
        "streams/keys streams/mixtures",
    ),
    "features of val whatever train was augmented with": Mutant(
        "streams/keys.py",
        'parts |= {f"train_{name}": value for name, value in transform.items()}',
        "pass",
        "streams/keys streams/stream",
    ),
    "the same mixture in every batch": Mutant(
        "data/mixing.py",
        'derive_seed("mix", run.seed, run.repeat, epoch, number)',
        'derive_seed("mix", run.seed, run.repeat, epoch)',
        "data/mixing streams/mixtures",
    ),
    "mixup with the smaller share": Mutant(
        "data/mixing.py", "max(share, 1 - share)", "share", "data/mixing streams/mixtures"
    ),
    "the area of CutMix before it is clipped": Mutant(
        "data/mixing.py",
        "1 - box.area / (height * width)",
        "share",
        "data/mixing streams/mixtures",
    ),
    "partners without their labels": Mutant(
        "streams/mixtures.py",
        "partners=batch.labels[mixture.partners]",
        "partners=batch.labels",
        "streams/mixtures",
    ),
    "a teacher that sees images before they are mixed": Mutant(
        "streams/stream.py",
        "lambda: self._views(split, epoch, own_order=same)",
        "lambda: self._unmixed(split, epoch, own_order=same)",
        "streams/mixtures",
    ),
    "a key without the version of timm": Mutant(
        "streams/keys.py", '"timm": timm_version(),', "", "streams/keys"
    ),
    "a fingerprint of the factory's file alone": Mutant(
        "models/user_source.py",
        "waiting += _imported(name, found[name])",
        "pass",
        "models/user_source",
    ),
    "a lock that several keys share": Mutant(
        "streams/cache.py",
        "{key.kind}-{key.name}.lock",
        "{key.kind}-{int(key.name[:8], 16) % 256}.lock",
        "streams/cache",
    ),
    "entries that are not checked": Mutant(
        "streams/entries.py",
        ' or metadata.get("crc") != str(checksum(tensors))',
        "",
        "streams/cache",
    ),
    "the newest entries evicted first": Mutant(
        "streams/cache.py", "in sorted(entries)", "in sorted(entries)[::-1]", "streams/cache"
    ),
    "everything stored in a cache that is too small": Mutant(
        "streams/working_set.py",
        "return shared or run.repeat % self.repeats < self.kept_repeats",
        "return True",
        "streams/working_set",
    ),
    "a clock in the figures": Mutant(
        "reporting/canvas.py", '"svg.hashsalt": "kdtune",', "", "reporting/figures"
    ),
    "cosine begins during the warm-up": Mutant(
        "training/optim.py",
        'before = run.warmup_epochs if run.schedule == "cosine" else 0',
        "before = 0",
        "training/optim training/loop",
    ),
    "gradients are not clipped": Mutant(
        "training/optim.py",
        "clip_grad_norm_(trained, run.clip_norm",
        "clip_grad_norm_(trained, 1e9",
        "training/optim training/loop",
    ),
    "an average that remembers its first weights": Mutant(
        "training/averaging.py",
        "decay = min(self.decay, (1 + self.updates) / (10 + self.updates))",
        "decay = self.decay",
        "training/averaging training/loop",
    ),
    "the average is not evaluated": Mutant(
        "training/loop.py",
        "else training.average.in_student()",
        "else nullcontext()",
        "training/averaging training/loop",
    ),
    "an average is not resumed": Mutant(
        "training/checkpoint.py",
        'average.load_state_dict(state["average"])',
        "pass",
        "training/checkpoint",
    ),
    "a projector is not resumed": Mutant(
        "training/checkpoint.py",
        'projector.load_state_dict(state["projector"])',
        "pass",
        "training/features_in_runs",
    ),
    "a projector that does not learn": Mutant(
        "training/optim.py",
        "(student,) if projector is None else (student, projector)",
        "(student,)",
        "training/features_in_runs",
    ),
    "a cosine of zeros is not a number": Mutant(
        "training/feature_losses.py",
        "squares.masked_fill(squares == 0, 1).sqrt()",
        "squares.sqrt()",
        "training/feature_losses",
    ),
    "KL the other way round": Mutant(
        "training/logit_losses.py",
        'F.kl_div(log_p_student, log_p_teacher, reduction="batchmean"',
        'F.kl_div(log_p_teacher, log_p_student, reduction="batchmean"',
        "training/objectives training/loop",
    ),
    "KL averaged over classes": Mutant(
        "training/logit_losses.py",
        'reduction="batchmean"',
        'reduction="mean"',
        "training/objectives training/loop",
    ),
    "KL without T squared": Mutant(
        "training/logit_losses.py",
        "return divergence * temperature**2",
        "return divergence",
        "training/objectives training/loop",
    ),
    "dkd without T squared": Mutant(
        "training/logit_losses.py",
        "dkd_beta * nckd).mean() * temperature**2",
        "dkd_beta * nckd).mean()",
        "training/objectives training/loop",
    ),
    "the weights of dkd exchanged": Mutant(
        "training/logit_losses.py",
        "(dkd_alpha * tckd + dkd_beta * nckd)",
        "(dkd_beta * tckd + dkd_alpha * nckd)",
        "training/objectives training/loop",
    ),
    "dkd with the label among the others": Mutant(
        "training/logit_losses.py",
        "index + (index >= labels[:, None])",
        "index + (index > labels[:, None])",
        "training/objectives training/loop",
    ),
    "ls with the population's sd": Mutant(
        "training/logit_losses.py",
        "z.std(1, keepdim=True)",
        "z.std(1, keepdim=True, correction=0)",
        "training/objectives training/loop",
    ),
    "losses in half precision": Mutant(
        "training/logit_losses.py", "else logits.float()", "else logits", "training/objectives"
    ),
    "dist with T squared": Mutant(
        "training/logit_losses.py",
        "return dist_beta * of_images + dist_gamma * of_classes",
        "return (dist_beta * of_images + dist_gamma * of_classes) * temperature**2",
        "training/logit_losses training/loop",
    ),
    "dist of rows alone": Mutant(
        "training/logit_losses.py",
        "_correlation(p_student.T, p_teacher.T)",
        "_correlation(p_student, p_teacher)",
        "training/logit_losses training/loop",
    ),
    "correlations of rounding errors": Mutant(
        "training/logit_losses.py",
        "centred.masked_fill(is_constant, 0)",
        "centred",
        "training/logit_losses",
    ),
    "nkd whose label is softened": Mutant(
        "training/logit_losses.py",
        "log_q = wide(student).log_softmax",
        "log_q = (wide(student) / temperature).log_softmax",
        "training/logit_losses training/loop",
    ),
    "nkd without the teacher's weight": Mutant(
        "training/logit_losses.py",
        "others - p * log_q",
        "others - log_q",
        "training/logit_losses training/loop",
    ),
    "one temperature for both": Mutant(
        "training/logit_losses.py",
        "wide(teacher) / own",
        "wide(teacher) / temperature",
        "training/logit_losses training/loop",
    ),
    "a sum without weights": Mutant(
        "training/objectives.py",
        "loss + term.weight * value(term)",
        "loss + value(term)",
        "training/objectives training/loop",
    ),
    "a sum whose second term has no hyperparameters": Mutant(
        "config/effects.py",
        "name in own for term in terms)",
        "name in own for term in terms[:1])",
        "config/effects planning/searched_losses",
    ),
    "two names for equal temperatures": Mutant(
        "config/effects.py",
        "None if n in dead | same else",
        "None if n in dead else",
        "planning/searched_losses",
    ),
    "None in records taken from the base run": Mutant(
        "config/hyperparameters.py",
        "effects.resolved(complete(config), searchable(Run))",
        "complete(config)",
        "planning/searched_losses",
    ),
    "alpha weights the teacher": Mutant(
        "training/objectives.py",
        "return alpha * ce + (1 - alpha) * distill",
        "return (1 - alpha) * ce + alpha * distill",
        "training/objectives training/metrics training/loop",
    ),
    "the last batch counts as a full one": Mutant(
        "training/metrics.py",
        "            self._add(values, len(labels))",
        "            self._add(values, max(16, len(labels)))",
        "training/metrics training/loop",
    ),
    "bins of the calibration error closed on the left": Mutant(
        "config/metrics.py",
        ".ceil().long().clamp(1, ECE_BINS) - 1",
        ".floor().long().clamp(0, ECE_BINS - 1)",
        "training/metrics",
    ),
    "bins that cancel": Mutant(
        "config/metrics.py",
        "sums.abs().sum()",
        "sums.sum().abs()",
        "training/metrics training/loop",
    ),
    "ten bins": Mutant(
        "config/metrics.py", "ECE_BINS = 15", "ECE_BINS = 10", "training/metrics training/loop"
    ),
    "F1 with absent classes": Mutant(
        "config/metrics.py", "occurs = both > 0", "occurs = both >= 0", "training/metrics"
    ),
    "agreement with the labels": Mutant(
        "config/metrics.py",
        "(teacher.argmax(1) == student.argmax(1))",
        "(labels == student.argmax(1))",
        "training/metrics training/loop",
    ),
    "the probability of the wrong class": Mutant(
        "training/predictions.py",
        "p_label=p.gather(1, labels[:, None])",
        "p_label=p.gather(1, predicted[:, None])",
        "training/metrics training/loop",
    ),
    "evaluated in train mode": Mutant(
        "training/loop.py", "student.set_mode(False)", "student.set_mode(True)", "training/loop"
    ),
    "batch norm always in train mode": Mutant(
        "training/loop.py",
        'set_mode(True, run.batch_norm == "train")',
        "set_mode(True)",
        "training/loop",
    ),
    "gradients add up": Mutant(
        "training/optim.py", "optimizer.zero_grad()", "pass", "training/loop"
    ),
    "the schedule stands still": Mutant(
        "training/loop.py",
        "if not by_batch:",
        "if False:",
        "training/loop",
    ),
    "dropout that is not seeded": Mutant(
        "training/loop.py",
        "        seed_step(run, number, step)\n",
        "",
        "training/loop training/checkpoint",
    ),
    "test in place of val": Mutant(
        "training/loop.py",
        "meters[split] = _evaluate(training, split, number)",
        'meters[split] = _evaluate(training, "test", number)',
        "training/loop",
    ),
    "adamw without weight decay": Mutant(
        "training/optim.py",
        "AdamW(parameters, lr=run.lr, weight_decay=run.weight_decay)",
        "AdamW(parameters, lr=run.lr)",
        "training/loop",
    ),
    "cosine that ends early": Mutant(
        "training/optim.py",
        "CosineAnnealingLR(optimizer, epochs)",
        "CosineAnnealingLR(optimizer, epochs - 1)",
        "training/loop",
    ),
    "onecycle that moves the momentum": Mutant(
        "training/optim.py", "cycle_momentum=False", "cycle_momentum=True", "training/loop"
    ),
    "a checkpoint without the optimiser": Mutant(
        "training/checkpoint.py",
        "optimizer.load_state_dict(parts[1])",
        "pass",
        "training/checkpoint",
    ),
    "a checkpoint without the schedule": Mutant(
        "training/checkpoint.py",
        "scheduler.load_state_dict(parts[2])",
        "pass",
        "training/checkpoint",
    ),
    "a checkpoint that does not fit leaves traces": Mutant(
        "training/checkpoint.py",
        "                student.net.load_state_dict(before)\n",
        "",
        "training/checkpoint",
    ),
    "a checkpoint of any format": Mutant(
        "training/checkpoint.py",
        'if state.get("format") != FORMAT:',
        "if False:",
        "training/checkpoint",
    ),
    "a damaged state takes the place of the one before": Mutant(
        "training/checkpoint.py",
        "self._is_last_whole = file == self.file",
        "self._is_last_whole = True",
        "training/checkpoint",
    ),
    "the state before the last is not read": Mutant(
        "training/checkpoint.py",
        "state_files(self.file) if file.exists()",
        "[self.file] if file.exists()",
        "training/checkpoint",
    ),
    "copies in one class are contradictory": Mutant(
        "data/overlap.py",
        "first.setdefault(c, label) != label",
        "c in first or first.setdefault(c, label) != label",
        "data/val_cut",
    ),
    "a teacher known by its paths": Mutant(
        "training/teacher_origin.py",
        '("data", "extra", "teacher_weights", "student_weights")',
        "()",
        "raytune/study_identity",
    ),
    "a teacher whose weights may change": Mutant(
        "training/teacher_origin.py",
        'hashlib.file_digest(stream, "sha256").hexdigest()',
        '"same"',
        "training/teacher",
    ),
}


def run(package: Path, tests: str) -> subprocess.CompletedProcess:
    files = [str(ROOT / "tests" / name.replace("/", "/test_")) + ".py" for name in tests.split()]
    # the copy comes first on the path; the working folder must hold no other kdtune
    env = os.environ | {"PYTHONPATH": f"{package}{os.pathsep}{ROOT / 'tests'}"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "--noconftest",
        "-p",
        "no:cacheprovider",
        "-n0",
        "--timeout=60",  # some mutants search for ever
    ]
    command += ["--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml"), *files]
    return subprocess.run(
        command, cwd=package, env=env, capture_output=True, text=True, check=False
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "kdtune", tmp_path / "kdtune", ignore=ignore)
    return tmp_path


@pytest.mark.parametrize("name", MUTANTS)
def test_the_passage_to_replace_is_there_once(name: str) -> None:
    mutant = MUTANTS[name]
    text = (ROOT / "kdtune" / mutant.file).read_text("utf-8")
    assert text.count(mutant.old) == 1, f"{mutant.old!r} is no longer once in {mutant.file}"
    assert mutant.old != mutant.new


@pytest.mark.slow
def test_the_copy_itself_passes(copy: Path) -> None:
    names = sorted({name for mutant in MUTANTS.values() for name in mutant.tests.split()})
    done = run(copy, " ".join(names))
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_the_mutant_is_found(copy: Path, name: str) -> None:
    mutant = MUTANTS[name]
    file = copy / "kdtune" / mutant.file
    file.write_text(file.read_text("utf-8").replace(mutant.old, mutant.new), "utf-8")
    for tests in mutant.tests.split():
        done = run(copy, tests)
        assert done.returncode == 1, f"{tests} let it pass\n{done.stdout[-3000:]}"
        assert "failed" in done.stdout and "error" not in done.stdout.splitlines()[-1]
