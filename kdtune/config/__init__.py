"""Configuration of a study: what it is, its checks, its JSON, the command lines.

Declarations
- bounds: bounds that several fields share
- fields: annotations of config fields (bounds, commands, effects) and the checks they imply
- base_run: what plan, records and tables know of a trial, whatever it trains
- task: what the trials train: hyperparameters, metrics, baseline; that of distillation
- run: `Run`, the configuration of one distillation run
- run_data: its fields of the data; a hyperparameter is declared in one of these files, once
- run_teacher: its fields of the teacher
- run_student: its fields of the student
- run_objective: its fields of the loss
- run_training: its fields of optimiser, schedule, regularisation and batches
- run_checks: its checks beyond the bounds of its fields
- function_run: a trial of a training function of the user's own, and its task
- study: `Study`, the configuration of a study
- space: the configurations that its search space holds
- study_json: the content of study.json
- study_checks: its checks beyond the bounds of its fields
- study_objects: objects and files of outputs in a study
- teacher_outputs: teachers that are only a file: their names, and what a run with one may have
- places: paths and URIs that cannot be are refused
- names: data and weights as they are named on a command line
- objects: models and data that are passed as objects, and their names
- effects: which hyperparameters have an effect in a configuration, and its id
- hyperparameters: the hyperparameters by name, lists and ranges of values
- text: texts of unknown origin, made safe to show
- numbers: text of numbers, distinct also close to 1
- metrics: the table of metrics
- conventions: the table of other tools' losses
- convention: the form of its entries
- conversion: another tool's weights as hyperparameters of kdtune
- migrations: schemas of study.json
- student_record: content of students/students.json
- teacher_accuracy: the record of the teachers' accuracy

Command lines
- commands: the table of commands, exit codes, `kdtune --help`
- cli: start of a command, parsing of studies, experiments
- process: standard streams, current folder and environment of a command
- words: words of a command line: numbers, ranges, what is refused
- flags: how a field becomes a flag; the flags of analysis and report
- function_flags: flags of an experiment with a training function
- predict_flags: flags of predict
- table_flags: flags of analysis for a table of results, and how it is told from a study
- completion: completion of commands and flags in a shell
- export_flags: flags of export
- convert_flags: flags of convert
- defaults: the default study, and the recipe of teachers
- trackers: trackers by name, and the flags of track
- user_code: errors in the user's own modules

Shared by all packages
- errors: exceptions whose message is for the user
- cost: cost of a model, its file and limits on it
- inputs: what counts as an image
- orientation: EXIF orientation of images of Pillow
- files: names of a study's files, atomic writes, the cache folder
- owners: files that other users of the machine may write, which are not trusted

Imports no other package; the table of objectives in `kdtune.training` is looked up by name. Needs
the standard library, tyro, platformdirs and Pillow only, the latter three imported when they are
needed.
"""
