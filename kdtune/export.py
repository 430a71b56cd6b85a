"""Export a student of a study to ONNX, torch.export or safetensors, checked against PyTorch.

python -m kdtune.export runs/fashion [--format onnx] [--int8] [--repeat N]
"""

if __name__ == "__main__":
    from kdtune.config.cli import start

    start("export")  # answers bad flags before torch loads; does not return

import sys
from contextlib import suppress
from functools import partial

from kdtune.config.cli import ExportFlags
from kdtune.config.text import InputError, printable
from kdtune.deploy.export import export
from kdtune.students.loading import describe_code


def main(flags: ExportFlags) -> int:
    """Export the student, print what was written and return the exit code 0."""
    with suppress(InputError):  # which export says
        if code := describe_code(flags.study):
            print(printable(code), file=sys.stderr)
    say = partial(print, flush=True)  # --int8 takes minutes: a pipe shows each step at once
    export(flags.study, flags.format, flags.int8, flags.repeat, say)
    return 0
