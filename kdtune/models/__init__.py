"""Teachers and students by name, with their preprocessing and weights (torch).

- registry: models by name
- classifier: a network with its preprocessing
- probe: trial of a model on two views of the data, before any work
- preprocessing: from views to a model's input, as libraries publish it or the user gives it
- weights: state dicts in and out, without pickle
- checkpoints: files, entries and prefixes of checkpoints that others have saved
- finished: files of weights of teachers that kdtune has fine-tuned
- ensemble: a teacher: one network, several, or a table of outputs
- outputs: a teacher that is only a table of outputs
- output_files: reading a file of outputs
- output_size: its size in memory
- output_writing: writing one
- output_rows: their rows as logits, checked
- factory: calls of a user's factory
- user_source: the source code that a user's factory depends on
- passed: models from objects that were passed
- object_source: the code behind such an object, also of a script or a notebook
- cost: parameters, size, FLOPs and latency of a model
- fashion: the networks of the default study
- cifar: the ResNets for CIFAR of He et al. (2015)

May import config.
"""

from kdtune.models.fashion import fashion_student as fashion_student
from kdtune.models.fashion import fashion_teacher as fashion_teacher
from kdtune.models.preprocessing import Preprocessing as Preprocessing
