"""Ray Tune: what Ray runs, its machines, the study's driver.

- driver: runs a study
- session: starts and stops Ray
- machines: the machines of a cluster
- preflight: checks of every machine before a trial runs there
- machine_monitor: machines that join and leave while a study runs
- trial: what Ray runs
- adapters: Ray Tune's searcher and scheduler on top of the plan
- recorder: from Ray Tune's callbacks to the records
- progress: what the terminal shows
- study_folder: what is written into a study's folder

May import every package but reporting.
"""
