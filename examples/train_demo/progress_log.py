"""The log of a run as CSV, and its plot."""

from __future__ import annotations

import csv
from pathlib import Path

COLUMNS = (
    "stage",
    "step",
    "seconds",
    "learning_rate",
    "loss",
    "bpp",
    "psnr",
    "structure",
    "latent_error",
    "entropy_z",
    "code_nats",
)
"""Fields of a line: means over the steps since the line before; empty where a stage has no such number.

`step` and `seconds` count within the stage; bpp is the estimate of the latent's rate without the hyper latent.
"""


class ProgressLog:
    """Appends lines to a CSV file and means over the steps between them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sums: dict[str, float] = {}
        self._count = 0
        if not path.exists():
            path.write_text(",".join(COLUMNS) + "\n")

    def add(self, values: dict[str, float]) -> None:
        """Take in the numbers of one step."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1

    def write(self, stage: int, step: int, seconds: float, learning_rate: float) -> dict[str, float]:
        """Write one line, start new means and return the line's."""
        means = {name: value / self._count for name, value in self._sums.items()}
        row = {"stage": stage, "step": step, "seconds": f"{seconds:.0f}", "learning_rate": f"{learning_rate:.2e}"}
        row |= {name: f"{value:.5g}" for name, value in means.items()}
        with self._path.open("a", newline="") as file:
            csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(row)
        self._sums, self._count = {}, 0
        return means


def plot_log(log: Path, output: Path) -> None:
    """Draw what each stage optimises over its computing time."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    with log.open(newline="") as file:
        rows = list(csv.DictReader(file))
    stages = sorted({row["stage"] for row in rows})
    panels = ("loss", "psnr", "bpp")
    figure, axes = plt.subplots(len(panels), max(1, len(stages)), figsize=(4.2 * max(1, len(stages)), 7), squeeze=False)
    for column, stage in enumerate(stages):
        of_stage = [row for row in rows if row["stage"] == stage]
        for axis, panel in zip(axes[:, column], panels, strict=True):
            points = [(float(row["seconds"]) / 60, float(row[panel])) for row in of_stage if row[panel]]
            if points:
                axis.plot(*zip(*points, strict=True), linewidth=0.8)
            axis.set_ylabel({"loss": "loss", "psnr": "PSNR, dB", "bpp": "bits per pixel"}[panel])
            axis.grid(alpha=0.3)
        if any(row["loss"] for row in of_stage):
            axes[0, column].set_yscale("log")
        axes[0, column].set_title(f"stage {stage}")
        axes[-1, column].set_xlabel("minutes")
    figure.tight_layout()
    figure.savefig(output, dpi=90)
    plt.close(figure)
