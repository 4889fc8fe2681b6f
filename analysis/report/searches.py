"""The report's section on sweeps: whether the published setting is near the best one found."""

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

import pandas as pd
from matplotlib import figure as mpl
from repro.analysis.plots import sweeps as plots
from repro.analysis.report.document import Part, Prose, Section, Table
from repro.analysis.report.figures import drawn
from repro.analysis.sweeps import Sweeps
from repro.analysis.tables import Tables
from scipy import stats

from repro import names, registry

SHOWN = 5
"""Best trials of a study that the report lists."""
Plot = tuple[str, str, Callable[[pd.DataFrame], mpl.Figure]]
"""A kind of plot, what it shows, and the function that draws it from the trials."""


def section(sweeps: Sweeps, tables: Tables) -> Section:
    """Return the section on all studies. `tables` has the runs of the published settings."""
    folded: list[Part] = []
    parts: list[Part] = [
        Prose(
            "Each trial trains with its own settings for a part of the experiment's epochs. Trials are ranked by the "
            "negative ELBO of held-out training images. The best settings and the published setting are then trained "
            "at full length with new seeds. Only these runs are measured on test images."
        )
    ]
    if not sweeps.names():
        parts.append(Prose("There are none yet: `python -m repro sweep mnist_fc`, then `report --update`."))
    for study in sweeps.names():
        parts += _study(sweeps, study, tables)
        folded += _more(sweeps.trials[sweeps.trials["study"] == study], study, tables)
    return Section("Searches", "searches-section", parts, folded)


def answer(sweeps: Sweeps, study: str, tables: Tables) -> str:
    """Say for a study, in a few sentences, whether the published setting is near the best one found."""
    rows = sweeps.retrained[sweeps.retrained["study"] == study]
    trials = sweeps.trials[sweeps.trials["study"] == study]
    experiment = str(trials["experiment"].iloc[0])
    tests = {index: json.loads(text) for index, text in rows["test_neg_elbo"].items()}
    own = [tests[index] for index in rows.index if pd.isna(rows.loc[index, "trial"]) and len(tests[index]) > 1]
    own = own or [alike for alike in [_tests(trials, tables)] if len(alike) > 1]
    others = [index for index in rows.index if not pd.isna(rows.loc[index, "trial"]) and len(tests[index]) > 1]
    if not own or not others:
        command = f"`python -m repro sweep {experiment} --study {study} --finish`"
        so_far = _so_far(trials, _own(trials, tables))
        return (
            f"{so_far}It is not yet known whether the published setting is near the best one at full length: {command}."
        )
    best = rows.loc[others, "trial_value"].idxmin()  # choosing by test images would be cheating
    mine, theirs = pd.Series(own[0]), pd.Series(tests[best])
    difference = float(theirs.mean() - mine.mean())
    interval = stats.ttest_ind(theirs, mine, equal_var=False).confidence_interval(0.95)
    reported = registry.get(experiment).spec.reported
    near = _near(interval, reported[-1].margin, trials["epochs"].iloc[0]) if reported else ""
    return (
        f"{_words(rows.loc[best, 'settings'])} gives {theirs.mean():.2f} nats of test negative ELBO over "
        f"{len(theirs)} seeds, the published setting {mine.mean():.2f} over {len(mine)}: {difference:+.2f} (95% "
        f"confidence interval {interval.low:+.2f} to {interval.high:+.2f}).{near} Its trial reached "
        f"{rows.loc[best, 'trial_value']:.2f} on held-out images. New seeds differ from it by "
        f"{rows.loc[best, 'optimism']:+.2f} at the same epoch: this is the optimism of the search."
    )


def _near(interval: Any, margin: float | None, epochs: int) -> str:
    """Say whether the published setting is near the best one, by the interval of the difference; "" without margin."""
    if margin is None:
        return ""
    if interval.low > 0:
        return f" The published setting is better at full length than the setting that was best after {epochs} epochs."
    if interval.low >= -margin:
        return f" The published setting is within {margin} nats (the verdict's margin) of the best setting found."
    if interval.high < -margin:
        return f" The published setting is more than {margin} nats (the verdict's margin) from the best setting found."
    return (
        f" More seeds would decide whether it is within {margin} nats (the verdict's margin) of the best setting found."
    )


def _own(trials: pd.DataFrame, tables: Tables) -> "pd.Series[float]":
    """Return held-out costs of the published setting's own runs after as many epochs as a trial has."""
    run_ids, epochs = _own_runs(trials, tables)["run_id"], trials["epochs"].iloc[0]
    curves = tables.curves[tables.curves["run_id"].isin(run_ids) & (tables.curves["epoch"] == epochs)]
    return curves[names.HELDOUT_NEG_ELBO].dropna().astype(float)


def _tests(trials: pd.DataFrame, tables: Tables) -> list[float]:
    """Return test negative ELBOs of the published setting's own runs, which stand for retrained ones."""
    return list(_own_runs(trials, tables)["test_neg_elbo"].dropna().astype(float))


def _own_runs(trials: pd.DataFrame, tables: Tables) -> pd.DataFrame:
    """Return the comparable runs of the published setting on the study's data; none if they hold out no images."""
    first = trials.iloc[0]
    runs = tables.runs[(tables.runs["experiment"] == first["experiment"]) & tables.runs["comparable"].astype(bool)]
    runs = runs[runs["signature"] == first["signature"]]
    if not registry.get(str(first["experiment"])).spec.data.holdout:
        return runs.head(0)
    return runs[runs["data"] == first["data"]]


def _so_far(trials: pd.DataFrame, own: "pd.Series[float]") -> str:
    """Compare the published setting's own runs with the complete trials; "" where there are none of either."""
    epochs, done = trials["epochs"].iloc[0], trials.loc[trials["state"] == "complete", "value"]
    if done.empty or own.empty:
        return ""
    seeds = f"mean of {len(own)} seeds, {own.min():.2f} to {own.max():.2f}" if len(own) > 1 else "one seed"
    lower = int((done < own.mean()).sum())
    return (
        f"After {epochs} epochs the published setting's own runs have {own.mean():.2f} nats of held-out negative ELBO "
        f"({seeds}). Of the {len(done)} complete trials {lower or 'none'} {'is' if lower < 2 else 'are'} lower; the "
        f"best has {done.min():.2f}, a difference of {done.min() - own.mean():+.2f}. "
    )


def _study(sweeps: Sweeps, study: str, tables: Tables) -> list[Part]:
    trials = sweeps.trials[sweeps.trials["study"] == study].sort_values("trial")
    first = trials.iloc[0]
    experiment = str(first["experiment"])
    counts = ", ".join(f"{count} {state}" for state, count in trials["state"].value_counts().items())
    space = ", ".join(f"{key}={text}" for key, text in json.loads(first["space"]).items())
    words = (
        f"{study}: {space}; {counts} trials of {first['epochs']} epochs, sampler {first['sampler']}, pruner "
        f"{first['pruner']}, on {first['data']}. {_another_version(first)}{answer(sweeps, study, tables)}"
    )
    command = _command(experiment, study)
    parts: list[Part] = [Prose(words)]
    retrained = _retrained_table(sweeps.retrained[sweeps.retrained["study"] == study])
    if len(retrained):
        caption = f"{study}: settings trained again on new seeds, nats per image. {command[:-1]} --finish`"
        parts.append(Table(f"retrained_{study}", retrained, caption))
    best = trials[trials["state"] == "complete"].sort_values("value").head(SHOWN)
    if len(best):
        caption = f"{study}: best trials, nats per image. {command}"
        parts.append(Table(f"trials_{study}", _trials_table(best), caption))
    own = {key: _plain(text) for key, text in registry.get(experiment).spec.flat().items()}
    beside = partial(plots.surface, own=own, own_value=_own(trials, tables).mean())
    first_plots: tuple[Plot, ...] = (
        ("surface", "Held-out cost over two settings: values of trials (signs) and a Gaussian process", beside),
        ("rate_distortion", "Rate against distortion in training, by latent size; sums are equal on dotted lines",
         plots.rate_distortion),
        ("importance", "Importance of each setting (fANOVA)", plots.importance),
        ("history", "Held-out cost of each trial, and the best so far", plots.history),
    )  # fmt: skip
    return [*parts, *_drawn(first_plots, trials, study, command)]


def _more(trials: pd.DataFrame, study: str, tables: Tables) -> list[Part]:
    """Return further plots of a study."""
    beside = partial(plots.distribution, own_value=_own(trials, tables).mean())
    kinds: tuple[Plot, ...] = (
        ("slice", "Held-out cost against each setting by itself, for the lowest nine in ten trials", plots.slices),
        (
            "parallel",
            "Settings and held-out cost of the lowest nine in ten trials, dark where it is low",
            plots.parallel,
        ),
        ("rank", "The lowest nine in ten trials over their settings, by rank of their held-out cost", plots.ranks),
        ("edf", "Share of the trials up to each held-out cost, and the cost of the published setting", beside),
    )
    return _drawn(kinds, trials, study, _command(str(trials["experiment"].iloc[0]), study))


def _drawn(kinds: Iterable[Plot], trials: pd.DataFrame, study: str, command: str) -> list[Part]:
    """Return those of the plots that the study has enough trials for."""
    found: list[Part] = []
    for kind, what, draw in kinds:
        with suppress(LookupError):  # too few trials, or settings of another kind
            caption = f"{study}: {what}. {command}"
            found.append(drawn(f"{kind}_{study}", partial(draw, trials), f"{what}, study {study}", caption))
    return found


def _command(experiment: str, study: str) -> str:
    return f"`python -m repro sweep {experiment}" + ("" if study == experiment else f" --study {study}") + "`"


def _another_version(trial: pd.Series) -> str:
    """Return a sentence where the experiment's file has changed since the study was made, else ""."""
    if trial["signature"] == registry.get(str(trial["experiment"])).spec.signature:
        return ""
    return "The study was made with an earlier version of the experiment's file. "


def _retrained_table(rows: pd.DataFrame) -> pd.DataFrame:
    found: list[dict[str, Any]] = []
    for row in rows.to_dict("records"):
        tests = pd.Series(json.loads(row["test_neg_elbo"]), dtype=float)
        if tests.empty:
            continue
        found.append(
            {
                "setting": _words(row["settings"]) if not pd.isna(row["trial"]) else "as published",
                "seeds": len(tests),
                "trial": row["trial_value"],
                f"new seeds, epoch {row['trial_epochs']}": row["heldout_then"],
                "optimism": row["optimism"],
                "final cost": row["cost"],
                "test negative ELBO": float(tests.mean()),
                "±": float(tests.std()),
            }
        )
    return pd.DataFrame(found)


def _trials_table(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "trial": rows["trial"].astype(int),
            "setting": rows["settings"].map(_words),
            "held-out negative ELBO": rows["value"],
            "training reconstruction": rows["reconstruction"],
            "training KL": rows["kl"],
        }
    )


def _words(settings: str) -> str:
    values = json.loads(settings)
    return ", ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()
    )


def _plain(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
