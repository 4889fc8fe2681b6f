"""Commands that show what there is: experiments and data."""

import json
from typing import Any

from repro import registry
from repro.cli.app import AsJson, DataDir, Name, app
from repro.tables import table


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """The registered experiments and what was reported for them."""
    rows = [_overview(registry.get(name)) for name in registry.names()]
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        table(rows)


@app.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """One experiment: what it is, what was reported, and every setting that --set can change."""
    entry = registry.get(name)
    overview = _overview(entry)
    if as_json:
        print(json.dumps(overview | {"spec": entry.spec.to_dict(), "signature": entry.spec.signature}, indent=2))
        return
    print(entry.about or entry.name, end="\n\n")
    table([overview])
    print(f"\nsettings, spec {entry.spec.signature}:")
    for key, value in entry.spec.flat().items():
        if not key.startswith(("reported.", "variant_of")):
            print(f"  {key} = {value}")


@app.command("data")
def data_(data_dir: DataDir = None) -> None:
    """What data was found where, and whether it is the canonical one. Downloads nothing."""
    from repro.data import survey

    table([vars(finding) for finding in survey(data_dir)])


def _overview(entry: Any) -> dict[str, Any]:
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
        "reported_cost": spec.reported.cost if spec.reported else None,
        "variant_of": spec.variant_of,
    }
