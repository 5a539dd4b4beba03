"""Draws the README's picture from a run of the recipe digits: python docs/picture.py RUN [OUT]."""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PARTS = {
    "teacher.png": "teacher, 35 evaluations",
    "untrained.png": "generator, untrained",
    "generator.png": "generator, one evaluation",
}


def main(run: Path, out: Path) -> None:
    figure, panels = plt.subplots(1, len(PARTS), figsize=(9, 3.3), layout="constrained")
    for panel, (file, title) in zip(panels, PARTS.items(), strict=True):
        panel.imshow(plt.imread(run / "samples" / file), cmap="gray")
        panel.set_title(title, fontsize=10)
        panel.axis("off")
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else "docs/digits.png"))
