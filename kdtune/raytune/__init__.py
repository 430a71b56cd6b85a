"""Ray Tune: the functions that Ray runs, its machines, and the driver of a study.

- driver: runs a study: checks, Ray, the tuner, resuming
- job: what a driver does for trials of one kind, for its two kinds:
- distillation: data, teachers and students
- own_function: a training function of the user's own
- study_folder: what is written into a study's folder at its start and its end
- students_folder: the best configuration's students, and what predicting with them needs
- study_identity: whether a study continues the one that its folder holds
- objects: objects that were passed, before a study: whether it can have them
- frozen: copies of passed models as bytes
- shared_objects: passed objects in Ray's object store
- teachers: training of the teachers, and the gate on their accuracy
- costs: cost of the study's models, measured once
- session: the start and the end of Ray as a study asks for it
- local_ray: a local Ray that other users of the machine cannot reach
- lost_ray: what becomes of a study whose local Ray loses a process
- silent_folder: a study's folder that does not answer, as a network mount
- stop_signals: signals that end a study before its end
- machines: the machines of a cluster, and how many trials fit on them
- preflight: checks of every machine before a trial runs there
- gpu_memory: whether the concurrent trials of a GPU fit into its memory
- node_status: what one machine reports about itself
- storage_probe: whether all machines see the study's folder or object store
- machine_monitor: machines that join or are lost while a study runs
- worker_watch: frozen processes of trials and teachers, which Ray does not notice
- trial: the functions that Ray runs on its workers
- function_trial: the one that calls a training function; imports no torch
- function_epochs: what such a function yields, checked; imports no torch
- reporter: reports of a trial to Tune; imports no torch
- adapters: Ray Tune's searcher and scheduler on top of the plan
- recorder: from Ray Tune's callbacks to the records
- progress: progress on a terminal, in a notebook or as lines
- notebook_output: outputs of a notebook's cell that are replaced or folded
- tracker_processes: processes that send the records to MLflow or Weights & Biases
- notify: the command of --notify

May import every package but reporting.
"""

import logging
import warnings

# in a notebook Ray's import asks for ipywidgets, for progress bars that a study does not show
logging.getLogger("ray.widgets.util").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", message="IProgress not found")
