"""Configuration of a study: what it is, its checks, its JSON, the command lines.

- cli: command lines: `python -m kdtune.<command> [EXPERIMENT.py] [--flags]`
- text: text for people: error messages, numbers, names of unknown origin
- files: files and folders: names in a study's folder, atomic writes, who may write
- fields: declarations of fields: bounds, roles, effects, and the identity of a configuration
- run: configuration of one distillation run, with its checks and migrations
- study: configuration of a study: a run, the space searched around it and what it runs on
- task: what the trials of a study train: hyperparameters, metrics, own training functions
- records: records of costs, teachers and students: the content of JSON files
- objects: models and data that are passed as objects, and the names under which a study knows them
- conventions: other tools' distillation losses: a table, and the conversion of their weights

Imports no other package; the table of objectives in `kdtune.training` is looked up by name. Needs
the standard library, tyro, platformdirs and Pillow only, the latter three imported when they are
needed.
"""
