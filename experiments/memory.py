"""Speed of a network on a CPU when glibc keeps the memory of large tensors; see README.md, Memory.

Each process passes 32 images of 224 pixels through a network and trains on them, in a thread as
Ray's workers do. Processes with and without the variables that a study gives its workers alternate.

    python experiments/memory.py
"""

import os
import subprocess
import sys
import threading
import time
from statistics import median

from kdtune.streams.views import KEEPS_MEMORY

NETWORKS = ("resnet18", "mobilenet_v3_large")
ROUNDS = 3
UNTIMED = 2


def measure(name: str) -> None:
    """Print the median seconds of a forward pass and of a training step."""
    import torch
    from torchvision import models

    torch.set_num_threads(1)
    net = models.get_model(name).to(memory_format=torch.channels_last)
    images = torch.randn(32, 3, 224, 224).to(memory_format=torch.channels_last)

    def forward() -> None:
        with torch.no_grad():
            net.eval()(images)

    def train() -> None:
        net.train()(images).square().mean().backward()

    for step in (forward, train):
        seconds = []
        for _ in range(UNTIMED + 5):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        print(median(seconds[UNTIMED:]))


def run(name: str, variables: dict[str, str]) -> list[float]:
    """Return what `measure` prints in a process with these variables."""
    others = {k: v for k, v in os.environ.items() if k not in KEEPS_MEMORY}
    command = [sys.executable, __file__, name]
    output = subprocess.run(  # noqa: S603 - this file
        command, env=others | variables, check=True, capture_output=True, text=True
    )
    return [float(line) for line in output.stdout.split()]


def main() -> None:
    """Print a table: medians over the rounds, and their ratios."""
    print("| network | step | released, s | kept, s | ratio |\n|---|---|--:|--:|--:|")
    for name in NETWORKS:
        rounds = [(run(name, {}), run(name, KEEPS_MEMORY)) for _ in range(ROUNDS)]
        for i, step in enumerate(("forward", "train")):
            released, kept = (median(pair[j][i] for pair in rounds) for j in (0, 1))
            ratio = median(pair[0][i] / pair[1][i] for pair in rounds)
            print(f"| {name} | {step} | {released:.2f} | {kept:.2f} | {ratio:.1f} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        thread = threading.Thread(target=measure, args=sys.argv[1:])
        thread.start()
        thread.join()
    else:
        main()
