"""Order of a study's runs, decided from the records alone.

- plan: the order of runs; whether to prune one
- ledger: state of a study, updated line by line from its records
- proposals: sampler of configurations (Optuna's random and TPE)
- distributions: Optuna's distributions of lists and ranges; log-odds both ways
- warm_start: the best configurations of another study
- standing: active configurations of each arm, finalists, whether the study is decided
- rounds: rounds of final repeats, whose finalists are fixed before they start
- optuna_export: optuna.db, the study for Optuna's tools

May import config, statistics and storage; never torch or Ray.
"""
