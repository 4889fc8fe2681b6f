"""One real epoch of each setup against the first point of its reported curve: `first_epoch.py DATA_DIR`.

Allowed is the reading error of that point plus three standard deviations over seeds. cifar_conv misses that by some
three nats with every seed (its second and third epoch lie within their errors): it is reported as a miss, and only
fails if it moves away from what seeds 0 to 4 gave.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

OVER_SEEDS = {"mnist_fc": (197.827, 0.266), "mnist_conv": (323.389, 4.465), "cifar_conv": (2092.316, 0.621)}
"""Mean and standard deviation of the first epoch's cost, nats per image, seeds 0 to 4, one thread."""
KNOWN_MISSES = {"cifar_conv"}
ROOT = Path(__file__).resolve().parents[1]


def first_cost(name: str, data: str, folder: Path) -> float:
    """Train one epoch with the real command and return its cost, nats per image."""
    options = ["--epochs", "1", "--data", "real", "--data-dir", data, "--summary", "summary.json"]
    subprocess.run([sys.executable, "-m", "repro", "run", name, *options], cwd=folder, check=True)
    return float(json.loads((folder / "summary.json").read_text())["cost"])


def main(data: str) -> int:
    """Check every setup; 1 if any is off."""
    off = 0
    for name, (mean, spread) in OVER_SEEDS.items():
        point = (ROOT / "experiments" / "reported" / f"{name}.csv").read_text().splitlines()[1]
        reported, error = (float(field) for field in point.split(",")[1:])
        with tempfile.TemporaryDirectory() as folder:
            cost = first_cost(name, str(Path(data).resolve()), Path(folder))
        allowed = error + 3 * spread
        within, as_before = abs(cost - reported) <= allowed, abs(cost - mean) <= 5 * spread
        off += not as_before or not (within or name in KNOWN_MISSES)
        verdict = "within" if within else "MISS"
        print(f"{name}: epoch 1 {cost:.2f}, reported {reported} +- {error}, {verdict}: off by {cost - reported:+.2f}")
        print(f"  allowed {allowed:.2f}; over seeds {mean} +- {spread}: {'as' if as_before else 'NOT as'} before")
    return int(off > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
