"""Ray Tune: the functions that Ray runs, its machines, and the driver of a study.

- function: trials of a training function of the user's own. Imports no torch
- driver: driver of a study: checks, Ray, the tuner, resuming
- recorder: records of trials as they run, and a watch over those that hang
- session: the start and the end of Ray, and what ends a study before its end
- machines: the machines of a Ray cluster: what they have, their checks, how many trials fit
- distillation: what only a study of distillation has: its trials, and before them its teachers
- objects: objects that were passed, and their copies on Ray's workers
- folder: a study's folder: which study continues the one in it, its first and its last files
- progress: progress of a study: live table, lines, notification, trackers

May import every package but reporting.
"""

import logging
import warnings

# in a notebook Ray's import asks for ipywidgets, for progress bars that a study does not show
logging.getLogger("ray.widgets.util").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", message="IProgress not found")
