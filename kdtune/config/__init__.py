"""What a study is: frozen dataclasses, their checks, their JSON and their command-line flags.

- errors: exceptions whose message is for the user
- hyperparameters: search spaces, and which hyperparameters have an effect
- run: the configuration of one distillation run
- study: the configuration of a study
- defaults: the default study
- cli: command lines
- user_code: errors in the user's own modules
- files: names of a study's files, atomic writes, the cache folder

Imports nothing of kdtune. Standard library and tyro only.
"""
