"""Which run is next, from the records alone.

- plan: the next run
- ledger: the state of a study, line by line of its records
- proposals: configurations suggested by a sampler (Optuna)
- warm_start: configurations of another study
- standing: which configurations are still in question, the finalists, the decision
- optuna_export: the study for Optuna's tools

May import config, statistics and storage; never torch or Ray.
"""
