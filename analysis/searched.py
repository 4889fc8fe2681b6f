"""The report's section on sweeps: is the published setting near the best, and what would the best have given?"""

import functools
import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

import pandas as pd
from matplotlib import figure as mpl
from repro.analysis import sweep_plots
from repro.analysis.figures import Part, drawn
from repro.analysis.frames import Frames
from repro.analysis.page import Prose, Section, Table
from repro.analysis.sweeps import Sweeps
from scipy import stats

from repro import registry
from repro.tracking import names

SHOWN = 5  # of the trials
Plot = tuple[str, str, Callable[[pd.DataFrame], mpl.Figure]]
"""A kind of plot, what it shows, and how it is drawn from the trials."""


def section(sweeps: Sweeps, frames: Frames) -> Section:
    """All studies, one after the other. `frames` has the published settings' own runs."""
    folded: list[Part] = []
    parts: list[Part] = [
        Prose(
            "Each trial trains with its own settings for a part of the experiment's epochs, and is chosen by the "
            "negative ELBO of held-out training images. The best ones, and the published setting, are then trained at "
            "full length with seeds that no trial had; only those are measured on test images."
        )
    ]
    if not sweeps.names():
        parts.append(Prose("None yet: `python -m repro sweep mnist_fc`, then `report --update`."))
    for study in sweeps.names():
        parts += _study(sweeps, study, frames)
        folded += _more(sweeps.trials[sweeps.trials["study"] == study], study, frames)
    return Section("Searches", "searches-section", parts, folded)


def answer(sweeps: Sweeps, study: str, frames: Frames) -> str:
    """The section's question, answered for a study in a sentence or two."""
    rows = sweeps.retrained[sweeps.retrained["study"] == study]
    trials = sweeps.trials[sweeps.trials["study"] == study]
    experiment = str(trials["experiment"].iloc[0])
    tests = {index: json.loads(text) for index, text in rows["test_neg_elbo"].items()}
    own = [tests[index] for index in rows.index if pd.isna(rows.loc[index, "trial"]) and len(tests[index]) > 1]
    own = own or [alike for alike in [_tests(trials, frames)] if len(alike) > 1]
    others = [index for index in rows.index if not pd.isna(rows.loc[index, "trial"]) and len(tests[index]) > 1]
    if not own or not others:
        command = f"`python -m repro sweep {experiment} --study {study} --finish`"
        so_far = _so_far(trials, _own(trials, frames))
        return f"{so_far}Whether the published setting is near the best at full length is not yet known: {command}."
    best = rows.loc[others, "trial_value"].idxmin()  # as the trials have it: to choose by test images would be to cheat
    mine, theirs = pd.Series(own[0]), pd.Series(tests[best])
    difference = float(theirs.mean() - mine.mean())
    interval = stats.ttest_ind(theirs, mine, equal_var=False).confidence_interval(0.95)
    reported = registry.get(experiment).spec.reported
    near = _near(interval, reported[-1].margin, trials["epochs"].iloc[0]) if reported else ""
    return (
        f"{_words(rows.loc[best, 'settings'])} gives {theirs.mean():.2f} nats of test negative ELBO over "
        f"{len(theirs)} seeds, the published setting {mine.mean():.2f} over {len(mine)}: {difference:+.2f} (95% "
        f"confidence interval {interval.low:+.2f} to {interval.high:+.2f}).{near} Its trial had promised "
        f"{rows.loc[best, 'trial_value']:.2f} on held-out images; fresh seeds were {rows.loc[best, 'optimism']:+.2f} "
        "from that at the same epoch, which is the optimism of the search."
    )


def _near(interval: Any, margin: float | None, epochs: int) -> str:
    """Whether the published setting is near the best, by the interval of the difference; "" without a margin."""
    if margin is None:
        return ""
    if interval.low > 0:
        return f" The published setting is the better one: what is best after {epochs} epochs is not in the end."
    if interval.low >= -margin:
        return f" The published setting is near the best: not {margin} nats from it, the margin that its verdict has."
    if interval.high < -margin:
        return f" The published setting is not near the best: more than {margin} nats, its verdict's margin, are left."
    return f" More seeds would decide whether that is within {margin} nats, the margin that its verdict has."


def _own(trials: pd.DataFrame, frames: Frames) -> "pd.Series[float]":
    """Held-out costs of the published setting's own runs after as many epochs as a trial has; none if not measured."""
    run_ids, epochs = _own_runs(trials, frames)["run_id"], trials["epochs"].iloc[0]
    curves = frames.curves[frames.curves["run_id"].isin(run_ids) & (frames.curves["epoch"] == epochs)]
    return curves[names.HELDOUT_NEG_ELBO].dropna().astype(float)


def _tests(trials: pd.DataFrame, frames: Frames) -> list[float]:
    """Test negative ELBOs of the published setting's own runs, which are what `--finish` would make anew."""
    tests: list[float] = _own_runs(trials, frames)["test_neg_elbo"].dropna().astype(float).tolist()
    return tests


def _own_runs(trials: pd.DataFrame, frames: Frames) -> pd.DataFrame:
    """The published setting's runs that count, on the study's data; none where they hold out other images than it."""
    first = trials.iloc[0]
    runs = frames.runs[(frames.runs["experiment"] == first["experiment"]) & frames.runs["comparable"].astype(bool)]
    runs = runs[runs["signature"] == first["signature"]]
    if not registry.get(str(first["experiment"])).spec.data.holdout:
        return runs.head(0)
    return runs[runs["data"] == first["data"]]


def _so_far(trials: pd.DataFrame, own: "pd.Series[float]") -> str:
    """How the published setting's own runs stood beside the complete trials; "" where there are none of either."""
    epochs, done = trials["epochs"].iloc[0], trials.loc[trials["state"] == "complete", "value"]
    if done.empty or own.empty:
        return ""
    seeds = f"mean of {len(own)} seeds, {own.min():.2f} to {own.max():.2f}" if len(own) > 1 else "one seed"
    lower = int((done < own.mean()).sum())
    return (
        f"After {epochs} epochs its own runs have the published setting at {own.mean():.2f} nats of held-out negative "
        f"ELBO ({seeds}); {lower or 'none'} of the {len(done)} complete trials {'is' if lower < 2 else 'are'} lower, "
        f"and the best has {done.min():.2f}, {done.min() - own.mean():+.2f} beside it. "
    )


def _study(sweeps: Sweeps, study: str, frames: Frames) -> list[Part]:
    trials = sweeps.trials[sweeps.trials["study"] == study].sort_values("trial")
    first = trials.iloc[0]
    experiment = str(first["experiment"])
    counts = ", ".join(f"{count} {state}" for state, count in trials["state"].value_counts().items())
    space = ", ".join(f"{key}={text}" for key, text in json.loads(first["space"]).items())
    words = (
        f"{study}: {space}; {counts} trials of {first['epochs']} epochs, sampler {first['sampler']}, pruner "
        f"{first['pruner']}, on {first['data']}. {_another_version(first)}{answer(sweeps, study, frames)}"
    )
    command = _command(experiment, study)
    parts: list[Part] = [Prose(words)]
    retrained = _retrained_table(sweeps.retrained[sweeps.retrained["study"] == study])
    if len(retrained):
        caption = f"{study}: settings trained again on fresh seeds, nats per image. {command[:-1]} --finish`"
        parts.append(Table(f"retrained_{study}", retrained, caption))
    best = trials[trials["state"] == "complete"].sort_values("value").head(SHOWN)
    if len(best):
        caption = f"{study}: its best trials, nats per image. {command}"
        parts.append(Table(f"trials_{study}", _trials_table(best), caption))
    own = {key: _plain(text) for key, text in registry.get(experiment).spec.flat().items()}
    shares = functools.cache(lambda: sweep_plots.importances(trials))
    over = partial(sweep_plots.surface, own=own, own_value=_own(trials, frames).mean())
    plots: tuple[Plot, ...] = (
        (
            "surface",
            "Held-out cost over two settings: measured (signs) and fitted to them by a Gaussian process (ground)",
            over,
        ),
        (
            "rate_distortion",
            "Rate against distortion in training, by latent size; dotted: equal sums",
            sweep_plots.rate_distortion,
        ),
        ("importance", "Importance of each setting (fANOVA)", lambda _: sweep_plots.importance(shares())),
        ("history", "Each trial's held-out cost, and the best so far", sweep_plots.history),
    )
    return [*parts, *_drawn(plots, trials, study, command)]


def _more(trials: pd.DataFrame, study: str, frames: Frames) -> list[Part]:
    """Further plots of a study."""
    beside = partial(sweep_plots.distribution, own_value=_own(trials, frames).mean())
    plots: tuple[Plot, ...] = (
        ("slice", "Held-out cost against each setting by itself, the lowest nine in ten", sweep_plots.slices),
        (
            "parallel",
            "Each trial from its settings to its held-out cost, the best in the brightest colour",
            sweep_plots.parallel,
        ),
        ("edf", "Share of the trials with at most that held-out cost", beside),
    )
    return _drawn(plots, trials, study, _command(str(trials["experiment"].iloc[0]), study))


def _drawn(plots: Iterable[Plot], trials: pd.DataFrame, study: str, command: str) -> list[Part]:
    """Those of the plots that the study has enough trials for."""
    found: list[Part] = []
    for kind, what, draw in plots:
        with suppress(LookupError):  # too few trials, or settings of another kind
            caption = f"{study}: {what}. {command}"
            found.append(drawn(f"{kind}_{study}", partial(draw, trials), f"{what}, study {study}", caption))
    return found


def _command(experiment: str, study: str) -> str:
    return f"`python -m repro sweep {experiment}" + ("" if study == experiment else f" --study {study}") + "`"


def _another_version(trial: pd.Series) -> str:
    """A sentence where the experiment's file has changed since the study was made, else ""."""
    if trial["signature"] == registry.get(str(trial["experiment"])).spec.signature:
        return ""
    return "It was made with an earlier version of the experiment's file. "


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
                f"fresh seeds, epoch {row['trial_epochs']}": row["heldout_then"],
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
