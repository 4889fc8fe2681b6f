"""One real epoch of each experiment against the first point of its published curve: `first_epoch.py DATA_DIR`.

Allowed is the reading error of that point plus three standard deviations over seeds.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

SPREAD = {"mnist_fc": 0.27, "mnist_conv": 4.5, "cifar_conv": 0.93}
"""Standard deviation over five seeds of the first epoch's cost, nats per image."""
ROOT = Path(__file__).resolve().parents[1]


def first_cost(name: str, data: str, folder: Path) -> float:
    """Train one epoch with the real command and return its cost, nats per image."""
    options = ["--epochs", "1", "--data", "real", "--data-dir", data, "--summary", "summary.json"]
    subprocess.run([sys.executable, "-m", "repro", "run", name, *options], cwd=folder, check=True)
    return float(json.loads((folder / "summary.json").read_text())["cost"])


def main(data: str) -> int:
    """Check each of them; 1 if any is off."""
    off = 0
    for name, spread in SPREAD.items():
        point = (ROOT / "experiments" / "reported" / f"{name}.csv").read_text().splitlines()[1]
        published, error = (float(field) for field in point.split(",")[1:])
        with tempfile.TemporaryDirectory() as folder:
            cost = first_cost(name, str(Path(data).resolve()), Path(folder))
        allowed, difference = error + 3 * spread, cost - published
        off += abs(difference) > allowed
        word = "within" if abs(difference) <= allowed else "MISS: allowed is"
        print(f"{name}: epoch 1 {cost:.2f}, published {published} +- {error}: {difference:+.2f}, {word} {allowed:.2f}")
    return int(off > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
