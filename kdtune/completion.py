"""Print the script that completes kdtune's commands and flags in a shell.

python -m kdtune.completion bash
"""

if __name__ == "__main__":
    from kdtune.config.cli import start

    start("completion")  # does not return

from kdtune.config.cli import CompletionFlags, script


def main(flags: CompletionFlags) -> int:
    """Print the script and return the exit code."""
    print(script(flags.shell))
    return 0
