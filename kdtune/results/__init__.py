"""Records to dataframes, tables, comparisons and the conclusion (pandas).

- study_results: `load` and the class `Results`, which the commands and users call
- study_comparisons: its base class: comparisons of configurations
- study_data: the base class of that: the dataframes, and which trials a criterion is judged by
- frames: dataframes of epochs and trials
- labels: readable labels of configurations
- predictions: predictions of the trials
- arms: predictions of the best distilled configuration and of its baseline, side by side
- classes: accuracy by class, confusion and calibration of both
- shown_images: images on which both differ most, and their thumbnails
- comparison: the criterion, and configurations compared with the baseline
- pairs: two configurations paired by repeat and image
- design: what the repeats vary (teachers, folds), and so what intervals hold for
- criterion_flags: the criterion that flags ask for, and its baseline
- significance: when a difference is significant, and p values as text
- summaries: means over repeats
- short_forms: the summary for reading, and the line that stands for the results
- selection: the selected configuration on data that did not select it
- finals: the trials of the last round of final repeats
- default_config: the recipe's default beside the chosen configuration, in words
- studies: list of the studies in a folder
- side_by_side, side_by_side_text: several studies of the same data compared, in numbers and words
- setups: whether studies have the same data, and what differs in their settings
- costs: cost of the models, and the frontier of accuracy and cost
- cost_limits: the best student within limits on its cost, in words
- sensitivity: epoch selection, shares of variance, importances
- diagnostics: missing and suspicious runs, progress
- teachers: accuracy of the teachers, and what is wrong with it
- student_metrics: what students.json says of the best configuration and its students
- files_kept: what is gone of the files that runs have left
- context: sentences about the baseline, repeats and method of a comparison
- effort: configurations and runs of each arm
- wording: the conclusion in words, about one student
- advice: what a study could have detected, and whether repeats or images would help
- conclusion: the conclusion and the summary of a study as text
- table: `compare`, which compares configurations in a table of results made elsewhere
- table_comparison: its numbers, with the columns of `comparison.compare`
- table_text: its wording
- table_columns, table_runs: columns of such a table, and one value per run from its rows
- table_sources, table_optuna: readers of csv, parquet, Optuna storages, W&B's exports
- tables: tables and single values as text

Metrics and hyperparameters are those of `config.metrics` and `config.hyperparameters`: columns of
new ones appear by themselves, and are NaN or None for studies that lack them.

May import config, statistics and storage; never torch or Ray.
"""
