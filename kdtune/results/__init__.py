"""Records to dataframes, tables, comparisons and the conclusion (pandas).

- summaries: means over repeats, and how much the ranking depends on choices
- frames: dataframes of a study's records: epochs, trials, predictions, labels
- design: design of a comparison: what repeats vary, pairs by repeat and image, significance
- comparison: comparison with the baseline, findings, selection, which may be the best
- formatting: tables and numbers as text
- results: results of a study: dataframes, tables, comparisons and the conclusion
- costs: what the students cost, beside what they achieve
- words: findings in words, with the templates of sentences.toml; no stronger than the numbers allow
- warnings: warnings about a study: its records, its files and its teachers
- several: studies of the same data side by side, and the list of a folder's studies
- tables: comparison of configurations in a csv or parquet file that was made elsewhere
- replacement: whether a student may replace the teacher, another model or another study's student
- examples: predictions of the best student and its baseline by class and by image

Metrics and hyperparameters are those of `config.task` and `config.run`: columns of
new ones appear by themselves, and are NaN or None for studies that lack them.

May import config, statistics and storage; never torch or Ray.
"""
