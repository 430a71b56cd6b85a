"""Records to dataframes, tables, comparisons and the verdict (pandas).

- study_results: `load` and the class `Results`
- frames: records to dataframes
- predictions: predictions of the trials
- comparison: configurations against the baseline, paired by repeat
- summaries: means over repeats
- selection: the selected configuration beyond the data that selected it
- sensitivity: epoch selection, shares of variance, importances
- diagnostics: missing and suspicious trials
- wording: the verdict in words
- tables: tables as text

May import config, statistics and storage; never torch or Ray.
"""
