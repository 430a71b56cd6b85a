"""Bounds that several fields share, far outside every practical value.

They refuse slips of the keyboard and numbers that torch, Ray or a file's 64 bits cannot hold,
before any work starts. A saved study is checked like a new one, so they are wide enough for every
study that can have learned something: a huge step size stands for "no decay", a range of learning
rates may end far above the useful ones. Never tighten a bound.
"""

MAX_INTEGER = 2**63 - 1
"""Greatest whole number of a record: Arrow's and torch's integers have 64 bits."""

MAX_COUNT = 1_000_000_000
"""Images, sizes in GB or milliseconds, and norms."""
MAX_EPOCHS = 1_000_000
"""Epochs of a training."""
MAX_STEP_SIZE = MAX_INTEGER
"""Epochs between decays. A step size far above the number of epochs means: no decay."""
MAX_BATCH = 2**31 - 1
"""Images per step; one above their number means all of them."""
MAX_LR = 1_000_000
"""Learning rate."""
MAX_WEIGHT_DECAY = 1_000_000
"""Weight decay: with a learning rate of 1 the weights are lost in the first step."""
MAX_BETA = 1000
"""Parameter of Beta(a, a), which is then almost always close to 1/2."""
MIN_STD = 0.000001
"""Standard deviation that inputs in [0, 1] are divided by; below, float32 has no digits left."""
MIN_TEMPERATURE = 0.0001
MAX_TEMPERATURE = 1000
MAX_WEIGHT = 1_000_000
"""Weight of a term of the loss."""
MAX_REPEAT = 1_000_000
"""Number of a repeat, of folds; a race has repeats beyond --repeats."""
MAX_REPEATS = 999
"""Repeats of the search, and teachers, one for each."""
MAX_PARAMS = 10**15
"""Parameters of a model."""
MAX_CONFIGURATIONS = 100_000
"""Configurations of a study. Making each of a grid takes about a millisecond at each start."""
MAX_RUNS = 1_000_000
"""Runs of a study: configurations times repeats."""
MAX_BUDGET = 1_000_000_000_000
"""Runs, epochs or hours of --budget."""
MAX_CORES = 100_000
"""Cores, GPUs and processes of a cluster."""
MIN_GPU = 0.0001
"""Smallest share of a GPU that Ray can reserve."""
MAX_NUMBER = 1e300
"""Greatest number of a training function's own hyperparameters: differences stay finite."""
