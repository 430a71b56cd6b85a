"""What a study is: its fields, checks, JSON, identity and command line. No torch, Ray or pandas.

- cli: command lines: the commands, their process, flags of a study
- study: a study: the run, the space around it and what it runs on
- run: one distillation run: its fields and checks
- task: what trials train: metrics, tasks, own training functions, lists and ranges
- records: costs, accuracy of teachers, students: the content of JSON files
- conventions: losses of other tools (conventions.toml), and the conversion of their weights
- fields: declarations: bounds, losses, optimisers, schedules, effects and ids
- objects: models and data that are passed as Python objects
- files: names of files, atomic writes, who may write; paths and URIs; orientation of images
- text: messages, errors, numbers, names of unknown origin

May import no other package of kdtune.
"""
