"""Teachers and students by name, with preprocessing and weights (torch).

- registry: models by name
- classifier: a network with its preprocessing
- weights: state dicts in and out, without pickle
- fashion: the default study's networks

May import config.
"""

from kdtune.models.fashion import fashion_student as fashion_student
from kdtune.models.fashion import fashion_teacher as fashion_teacher
