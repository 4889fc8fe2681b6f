"""Commands that show the experiments and the data."""

import json
from typing import Any

from repro.cli.app import app
from repro.cli.options import AsJson, DataDir, Name
from repro.spec import registry
from repro.spec.overrides import FIXED
from repro.terminal import table


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the experiments with their reported costs."""
    rows = [_overview(registry.get(name)) for name in registry.names()]
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        table([_as_text(row) for row in rows])


@app.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """Show one experiment and every setting that --set can change."""
    entry = registry.get(name)
    overview = _overview(entry)
    if as_json:
        print(json.dumps(overview | {"spec": entry.spec.to_dict(), "signature": entry.spec.signature}, indent=2))
        return
    print(entry.about or entry.name, end="\n\n")
    table([_as_text(overview)])
    print(f"\nsettings, spec {entry.spec.signature}:")
    for key, value in entry.spec.flat().items():
        if key not in FIXED:
            print(f"  {key} = {value}")


@app.command("data")
def data_(data_dir: DataDir = None) -> None:
    """Show where data sets are found and whether they are canonical.

    Nothing is downloaded.
    """
    from repro.data import survey

    table([vars(finding) for finding in survey(data_dir)])


def _as_text(overview: dict[str, Any]) -> dict[str, Any]:
    costs = "; ".join(f"{each['cost']:.2f} at epoch {each['epoch']}" for each in overview["reported"])
    return overview | {"reported": costs or None}


def _overview(entry: registry.Entry) -> dict[str, Any]:
    from repro.model import count_parameters

    spec = entry.spec
    return {
        "name": entry.name,
        "dataset": spec.data.name,
        "epochs": spec.training.epochs,
        "batch_size": spec.training.batch_size,
        "learning_rate": spec.optim.lr,
        "latent": spec.model.latent,
        "parameters": count_parameters(spec),
        "reported": [{"epoch": each.epoch, "cost": each.cost} for each in spec.reported],
        "variant_of": spec.variant_of,
    }
