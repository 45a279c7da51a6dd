"""Does a training step beside another busy process crawl? OpenMP's waiting, spinning and passive.

Run: .venv/bin/python benchmarks/threads.py. Steps alternate between the two policies, three rounds,
first alone and then beside a process that trains too; medians and their ratio are printed. The
step is made of small operations, which is where waiting shows most, either way.
"""

import os
import platform
import statistics
import subprocess
import sys

STEP = """
import sys, time, torch
net = torch.nn.Sequential(*[m for _ in range(6) for m in
      (torch.nn.Conv2d(16, 16, 3, padding=1), torch.nn.BatchNorm2d(16), torch.nn.ReLU())])
x = torch.rand(16, 16, 16, 16)
for _ in range(3): net(x).sum().backward()
start = time.perf_counter()
for _ in range(10): net(x).sum().backward()
print((time.perf_counter() - start) / 10 * 1000)
"""
ROUNDS = 3


NEIGHBOUR = STEP.replace("for _ in range(3)", "while True")


def step_ms(policy: str) -> float:
    """Milliseconds of one small training step, in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    if policy != "default":
        environment["OMP_WAIT_POLICY"] = policy
    ran = subprocess.run(
        [sys.executable, "-c", STEP], env=environment, capture_output=True, text=True, check=True
    )
    return float(ran.stdout)


def main() -> None:
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for beside in ("alone", "beside a process that trains"):
        loop = NEIGHBOUR if beside != "alone" else "pass"
        neighbour = subprocess.Popen([sys.executable, "-c", loop])
        rounds = [(step_ms("default"), step_ms("passive")) for _ in range(ROUNDS)]
        neighbour.kill()
        neighbour.wait()
        default, passive = (statistics.median(column) for column in zip(*rounds, strict=True))
        ratios = sorted(d / p for d, p in rounds)
        print(f"{beside}: default {default:.2f} ms, passive {passive:.2f} ms a step; ratio median "
              f"{statistics.median(ratios):.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})")  # fmt: skip


if __name__ == "__main__":
    main()
