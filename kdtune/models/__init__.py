"""Teachers and students by name, with their preprocessing and weights (torch).

- registry: teachers and students by name
- code_hash: hash of the code behind a model: of objects passed in Python, and of modules of the
  user
- classifier: classifiers: a network with its preprocessing, from views to logits
- weights: weights as state dicts; nothing is unpickled
- cifar: ResNets for CIFAR of He et al. (2015, section 4.2), with the layer names of published
  weights
- checks: checks of a model on two views of the data, and what it costs
- outputs: teachers: one network, the mean of several, or a table of outputs

May import config.
"""

from kdtune.models.classifier import Preprocessing as Preprocessing
from kdtune.models.classifier import fashion_student as fashion_student
from kdtune.models.classifier import fashion_teacher as fashion_teacher
