"""Order of a study's runs, decided from the records alone.

- ledger: state of a study as its records tell it: configurations, scores, finalists
- plan: order of runs as a function of the records, so that a resumed study decides the same
- proposals: proposals of configurations: Optuna's samplers, and the export for its tools

May import config, statistics and storage; never torch or Ray.
"""
