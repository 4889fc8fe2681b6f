"""The report's parts on sweeps: whether the published setting is near the best one found."""

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

import pandas as pd
from matplotlib.figure import Figure as Plot
from optuna.visualization import matplotlib as library
from repro.analysis.plots import sweeps as plots
from repro.analysis.report.document import Contents, Part, Table, drawn
from repro.analysis.sweeps import Sweeps, answer, command, parsed, published_costs, words
from repro.analysis.tables import Tables

from repro import registry

SHOWN = 5
"""Best trials of a study that the report lists."""
Kind = tuple[str, str, Callable[[pd.DataFrame], Plot | list[Plot]]]
"""A kind of plot, what it shows, and the function that draws it from the trials."""


def parts(sweeps: Sweeps, tables: Tables) -> Contents:
    """Return the parts on all studies. `tables` has the runs of the published settings."""
    shown: list[Part] = []
    folded: list[Part] = []
    for study in sweeps.names():
        some, more = _study(sweeps, study, tables)
        shown += some
        folded += more
    none = "There are none yet: `python -m repro sweep mnist_fc`, then `report --update`."
    return {"sweeps": shown or [none], "more_of_sweeps": folded}


def _study(sweeps: Sweeps, study: str, own_runs: Tables) -> tuple[list[Part], list[Part]]:
    """Return the parts on a study, and those that are shown on demand."""
    trials = sweeps.trials[sweeps.trials["study"] == study].sort_values("trial")
    first = trials.iloc[0]
    spec = registry.get(str(first["experiment"])).spec
    counts = ", ".join(f"{count} {state}" for state, count in trials["state"].value_counts().items())
    space = ", ".join(f"{key}={text}" for key, text in json.loads(first["space"]).items())
    earlier = "The study was made with an earlier version of the experiment's file. "
    parts: list[Part] = [
        f"{study}: {space}; {counts} trials of {first['epochs']} epochs, sampler {first['sampler']}, pruner "
        f"{first['pruner']}, on {first['data']}. {'' if first['signature'] == spec.signature else earlier}"
        f"{answer(sweeps, study, own_runs)}"
    ]
    tables: list[Part] = []
    how = f"`{command(trials)}`"
    retrained = _retrained(sweeps.retrained[sweeps.retrained["study"] == study])
    if len(retrained):
        caption = f"{study}: settings trained again on new seeds, nats per image. `{command(trials, retrain=True)}`"
        tables.append(Table(f"retrained_{study}", retrained, caption))
    best = trials[trials["state"] == "complete"].sort_values("value").head(SHOWN)
    if len(best):
        tables.append(Table(f"trials_{study}", _best(best), f"{study}: best trials, nats per image. {how}"))
    own, own_value = {key: parsed(text) for key, text in spec.flat().items()}, published_costs(trials, own_runs).mean()
    kinds: tuple[Kind, ...] = (
        ("surface", "Held-out cost over two settings: values of trials (signs) and a Gaussian process",
         partial(plots.surface, own=own, own_value=own_value)),
        ("rate_distortion", "Rate against distortion in training, by latent size; sums are equal on dotted lines",
         plots.rate_distortion),
    )  # fmt: skip
    more: tuple[Kind, ...] = (
        ("importance", "Importance of each setting (fANOVA)", plots.importance),
        ("history", "Held-out cost of each trial, and the best so far", plots.history),
        ("slice", "Held-out cost against each setting by itself, for the lowest nine in ten trials",
         plots.slices),
        ("parallel", "Settings and held-out cost of the lowest nine in ten trials, dark where it is low",
         partial(plots.lowest, library.plot_parallel_coordinate)),
        ("rank", "The lowest nine in ten trials over their settings, by rank of their held-out cost",
         partial(plots.lowest, library.plot_rank)),
        ("edf", "Share of the trials up to each held-out cost, and the cost of the published setting",
         partial(plots.distribution, own_value=own_value)),
    )  # fmt: skip
    return [*parts, *_drawn(kinds, trials, study, how)], [*tables, *_drawn(more, trials, study, how)]


def _drawn(kinds: Iterable[Kind], trials: pd.DataFrame, study: str, how: str) -> list[Part]:
    """Return the plots that the study has enough trials for."""
    found: list[Part] = []
    for kind, what, draw in kinds:
        with suppress(LookupError):  # too few trials, or settings of another kind
            plot = partial(draw, trials)
            found.append(drawn(f"{kind}_{study}", plot, f"{what}, study {study}", f"{study}: {what}. {how}"))
    return found


def _retrained(rows: pd.DataFrame) -> pd.DataFrame:
    tests = rows["test_neg_elbo"].map(json.loads)
    rows, tests = rows[tests.map(len) > 0], tests[tests.map(len) > 0]
    published = rows["trial"].isna()
    return pd.DataFrame(
        {
            "setting": rows["settings"].map(words).mask(published, "as published"),
            "seeds": tests.map(len),
            "trial": rows["trial_value"],
            f"new seeds, epoch {rows['trial_epochs'].max()}": rows["heldout_then"],
            "optimism": rows["optimism"],
            "final cost": rows["cost"],
            "test negative ELBO": [pd.Series(each).mean() for each in tests],
            "standard deviation": [pd.Series(each).std() for each in tests],
        }
    )


def _best(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "trial": rows["trial"].astype(int),
            "setting": rows["settings"].map(words),
            "held-out negative ELBO": rows["value"],
            "training reconstruction": rows["reconstruction"],
            "training KL": rows["kl"],
        }
    )
