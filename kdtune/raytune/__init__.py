"""Ray Tune: the functions that Ray runs, its machines, and the driver of a study.

- function: trials of a training function of the user's own. Imports no torch
- driver: driver of a study: checks, Ray, the tuner, resuming
- recorder: records of trials as they run, and a watch over their processes
- trial: the functions that Ray runs on its workers: a trial, and the training of the teacher
- session: the start and the end of Ray, and what ends a study before its end
- machines: the machines of a Ray cluster: what they have, their checks, how many trials fit
- teachers: teachers before the trials: their training, accuracy and the cost of models
- objects: objects that were passed, and their copies on Ray's workers
- folder: a study's folder: the files at its start and its end
- identity: whether a study continues the one in its folder, and whether that is complete
- progress: progress of a study: live table, lines, notification, trackers

May import every package but reporting.
"""

import logging
import warnings

# in a notebook Ray's import asks for ipywidgets, for progress bars that a study does not show
logging.getLogger("ray.widgets.util").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", message="IProgress not found")
