"""Claims on costs: the three final ones, the shape of their curves, and which network is the better one."""

import math
from dataclasses import replace
from functools import partial

import numpy as np

from analysis import curves
from analysis.claims.claim import Claim, Evidence, Finding, Word
from repro import registry

KNEE_EPOCHS, KNEE_SHARE = 2.0, 0.1
"""A knee may fall so many epochs, or this share of the reported epoch, from the reported one, whichever is more."""
SECOND_PLOT = (
    "The second plot shows the the negative of likelihood function with respect to the number of training epochs. "
    "[and the plotted curve]"
)
SHARE_WITHIN = 0.95
LINES = {
    "mnist_fc": "Epoch: 0100 cost= 96.2119372147",
    "mnist_conv": "Epoch: 0150 cost= 99.1976605925",
    "cifar_conv": "Epoch: 0150 cost= 1840.119207031",
}


def final_cost(name: str, evidence: Evidence) -> Finding:
    """The equivalence verdict of `compare`, in a claim's words."""
    evidence.runs(name)
    verdict = evidence.verdicts[name]
    words: dict[str, Word] = {
        "reproduced": "holds",
        "different (worse)": "does not hold",
        "different (better)": "does not hold",
    }
    spread = f" +- {verdict.std:.2f} (standard deviation)" if verdict.std is not None else ""
    text = f"{verdict.verdict}: mean {verdict.mean:.2f}{spread} over {verdict.n} seed{'s' * (verdict.n != 1)}, "
    text += f"reported {verdict.reported:.2f}, margin {verdict.margin} nats, on {verdict.data}"
    text += f"; {verdict.reason}" if verdict.reason else ""
    figures = {"mean": verdict.mean, "difference": verdict.difference, "margin": verdict.margin, "seeds": verdict.n}
    return Finding(
        words.get(verdict.verdict, "undecided"),
        text,
        {key: float(value) for key, value in figures.items() if value is not None},
        tuple(evidence.runs(name)["run_id"]),
    )


def one_sample(evidence: Evidence) -> Finding:
    """Training with one draw of z an image against the reported cost: it must not be worse."""
    found = final_cost("mnist_fc", evidence)
    better = evidence.verdicts["mnist_fc"].verdict == "different (better)"
    return replace(found, verdict="holds") if better else found


def curve_shape(name: str, evidence: Evidence) -> Finding:
    """Knees where they were, and the rest within the reading error and the margin."""
    entry = registry.get(name)
    reported = curves.reported_curve(entry)
    assert reported is not None and entry.spec.reported is not None and entry.spec.reported.margin is not None
    found = curves.compare(entry, evidence.curves(name), reported, entry.spec.reported.margin)
    off = [float(np.mean(mine)) - theirs for mine, theirs in zip(found.knees, found.knees_reported, strict=True)]
    allowed = [max(KNEE_EPOCHS, KNEE_SHARE * epoch) for epoch in found.knees_reported]
    knees_hold = all(abs(by) <= most for by, most in zip(off, allowed, strict=True))
    within = found.share_within or 0.0
    mean = ", ".join(
        f"{share:.0%} of the fall at epoch {float(np.mean(mine)):.1f} (reported {theirs:.1f}, which the reading error "
        f"leaves between {low:.1f} and {high:.1f})"
        for share, mine, theirs, (low, high) in zip(
            curves.FALLS, found.knees, found.knees_reported, found.knees_read, strict=True
        )
    )
    figures = {f"knee_{share:.0%}_epochs_off": by for share, by in zip(curves.FALLS, off, strict=True)}
    word: Word = "holds" if knees_hold and within >= SHARE_WITHIN else "does not hold"
    few = "" if len(found.seeds) > 1 else "one seed, and knees move from seed to seed: "
    return Finding(
        "undecided" if few else word,
        f"{few}{mean}; after that {within:.0%} of the epochs lie within the reading error and the margin, the farthest "
        f"{found.largest_deviation or math.nan:+.1f} reading errors off at epoch {found.largest_epoch}; "
        f"on {evidence.runs(name)['data'].iloc[0]}",
        figures | {"share_within": within, "largest_deviation": found.largest_deviation or math.nan},
        tuple(evidence.runs(name)["run_id"]),
    )


def convolution_is_better(evidence: Evidence) -> Finding:
    """The two networks at the reported settings, and at equal learning rates and numbers of epochs."""
    reported = {name: registry.get(name).spec.training.epochs for name in ("mnist_fc", "mnist_conv")}
    fc, conv = (evidence.mean_at(name, epochs) for name, epochs in reported.items())
    figures = {"fc": fc, "conv": conv}
    text = f"at the reported settings {conv:.2f} against {fc:.2f} nats of the fully connected network"
    both = {name: evidence.runs(name) for name in reported}
    tests = {name: float(runs["test_neg_elbo"].mean()) for name, runs in both.items()}
    text += f" (on test images {tests['mnist_conv']:.2f} against {tests['mnist_fc']:.2f})"
    runs = [*both["mnist_fc"]["run_id"], *both["mnist_conv"]["run_id"]]
    epochs = min(reported.values())
    better = []
    for rate, dense, convolutional in (
        ("1e-3", "mnist_fc", "mnist_conv_lr_1e3"),
        ("1e-4", "mnist_fc_lr_1e4", "mnist_conv"),
    ):
        pair = [evidence.mean_at(name, epochs) for name in (dense, convolutional)]
        better.append(pair[1] < pair[0])
        figures |= {f"fc_{rate}": pair[0], f"conv_{rate}": pair[1]}
        text += f"; at learning rate {rate}, both after {epochs} epochs, {pair[1]:.2f} against {pair[0]:.2f}"
        runs += [*evidence.runs(dense)["run_id"], *evidence.runs(convolutional)["run_id"]]
    because = {
        (True, True): "At equal settings the convolutional network is the better one: the reported order is the "
        "learning rate's and the epochs' doing",
        (False, False): "It is worse at equal settings too: that is the architecture",
    }.get((better[0], better[1]), "Which is better depends on the learning rate")
    holds = conv < fc and all(better)
    return Finding("holds" if holds else "does not hold", f"{text}. {because}.", figures, tuple(dict.fromkeys(runs)))


CLAIMS = (
    *(
        Claim(
            f"cost_{name}",
            line,
            f"the training cost of the last epoch of {name}, several seeds",
            "two one-sided t tests at 5% within the margin of the experiment's file: reproduced",
            partial(final_cost, name),
        )
        for name, line in LINES.items()
    ),
    *(
        Claim(
            f"curve_{name}",
            SECOND_PLOT,
            f"the cost of every epoch of {name}, mean over seeds, against the published plot",
            f"half and nine tenths of the fall are done within {KNEE_EPOCHS:.0f} epochs or {KNEE_SHARE:.0%} of the "
            f"reported epochs; after them {SHARE_WITHIN:.0%} of the epochs lie within reading error + margin",
            partial(curve_shape, name),
        )
        for name in LINES
    ),
    Claim(
        "one_sample_can_be_used",
        "In the extreme case a single sample can be used to approximate this expectation.",
        "the training cost of the last epoch of mnist_fc, trained with one draw of z an image, several seeds",
        "its verdict is reproduced, or better than that; whether more draws give a lower cost is not asked (written "
        "when the costs of three of the five seeds were known)",
        one_sample,
    ),
    Claim(
        "convolution_better",
        "Convolutional neural networks usually perform better on vision related tasks as compared to standard fully "
        "connected MLPs by virtue of their architecture.",
        "training cost of both networks on MNIST at both learning rates, and at equal numbers of epochs",
        "the convolutional network's cost is the lower one at the reported settings and at equal ones",
        convolution_is_better,
    ),
)
