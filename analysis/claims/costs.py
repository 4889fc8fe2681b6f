"""Claims about costs: the printed costs, the shape of their curves, and which network is better."""

from dataclasses import replace
from functools import partial

from repro.analysis import curves, verdicts
from repro.analysis.claims.evidence import (
    Claim,
    Evidence,
    Finding,
    MissingError,
    claim,
    holds,
    result_at,
    run_command,
)

from repro import registry

SECOND_PLOT = (
    "The second plot shows the the negative of likelihood function with respect to the number of training epochs. "
    "[and the plotted curve]"
)
LINES = {  # experiment, epoch and printed line; an earlier version of the notebook prints the costs of epoch 10
    "mnist_fc": ("mnist_fc", 100, "Epoch: 0100 cost= 96.2119372147"),
    "mnist_conv": ("mnist_conv", 150, "Epoch: 0150 cost= 99.1976605925"),
    "cifar_conv": ("cifar_conv", 150, "Epoch: 0150 cost= 1840.119207031"),
    "mnist_fc_epoch_10": ("mnist_fc", 10, "Epoch: 0010 cost= 112.542405215"),
    "mnist_conv_lr_1e3": ("mnist_conv_lr_1e3", 10, "Epoch: 0010 cost= 130.142956571"),
}


def printed_cost(name: str, epoch: int, evidence: Evidence) -> Finding:
    """Judge a printed cost by the verdict of `compare`."""
    verdict = evidence.verdict(name, epoch)
    if verdict.mean is None:
        raise MissingError(_command(name, epoch))
    deviation = f" (standard deviation {verdict.std:.2f})" if verdict.std is not None else ""
    text = f"{verdict.label}: mean {verdict.mean:.2f}{deviation} over {verdict.n} of {verdict.planned} planned seeds, "
    text += f"reported {verdict.reported:.2f}, margin {verdict.margin} nats, on {verdict.data}"
    if verdict.p is not None:
        text += f"; p = {verdict.p:.2f} for the published run as one of ours"
    text += "".join(f"; {each}" for each in (*verdict.failures, verdict.reason) if each)
    figures = {"mean": verdict.mean, "difference": verdict.difference, "margin": verdict.margin, "p": verdict.p}
    number = f"{verdict.difference:+.2f} nats from the published cost, margin {verdict.margin}"
    if verdict.decided and verdict.verdict != "reproduced":  # the second question decides
        number = f"p = {verdict.p:.2f} for the published run as one of ours, limit {verdicts.LEVEL}"
    return Finding(
        holds(verdict.verdict in ("reproduced", "consistent")) if verdict.decided else "undecided",
        text,
        number if verdict.decided else f"{verdict.label}: {number}",
        {key: float(value) for key, value in figures.items() if value is not None},
        tuple(evidence.planned(name, epoch)["run_id"]),
    )


@claim(
    "In the extreme case a single sample can be used to approximate this expectation.",
    "the training cost of the last epoch of mnist_fc, trained with one draw of z for each image, all planned seeds",
    "its verdict is reproduced, consistent or different (better); whether more draws give a lower cost is not asked",
)
def one_sample_can_be_used(evidence: Evidence) -> Finding:
    found = printed_cost("mnist_fc", 100, evidence)
    better = evidence.verdict("mnist_fc", 100).verdict == "different (better)"
    return replace(found, verdict="holds") if better else found


def curve_like_ours(name: str, epoch: int, evidence: Evidence) -> Finding:
    verdict, runs = evidence.verdict(name, epoch), evidence.planned(name, epoch)
    if runs.empty:
        raise MissingError(_command(name, epoch))
    found = curves.rank(registry.get(name), result_at(name, epoch), evidence.tables)
    if found is None:
        told = f"{len(runs)} of {verdict.planned} planned seeds have finished: too few"
        return Finding("undecided", told, told)
    decided = verdict.n >= verdict.planned
    interim = "" if decided else f"interim ({verdict.n} of {verdict.planned}): "
    return Finding(
        holds(found.p > curves.LEVEL) if decided else "undecided",
        f"{interim}rank {found.rank} of {len(found.seeds) + 1} (1 is the farthest out), p = {found.p:.3f}; the "
        f"published curve is {found.published:.1f} standardised distances from the others at epoch {found.epoch}, "
        f"where it lies {found.nats:+.2f} nats from the mean of ours; our own runs reach {min(found.distances):.1f} to "
        f"{max(found.distances):.1f}; on {verdict.data}",
        f"{interim}p = {found.p:.2f} by rank, limit {curves.LEVEL}",
        {"rank": float(found.rank), "p": found.p, "distance": found.published, "epoch": float(found.epoch)},
        tuple(runs["run_id"]),
    )


@claim(
    "Convolutional neural networks usually perform better on vision related tasks as compared to standard fully "
    "connected MLPs by virtue of their architecture.",
    "training cost of both networks on MNIST at both learning rates, and at equal numbers of epochs",
    "the convolutional network's cost is lower at the reported settings and at equal settings",
)
def convolution_better(evidence: Evidence) -> Finding:
    epochs = {name: registry.get(name).spec.training.epochs for name in ("mnist_fc", "mnist_conv")}
    fc, conv = (evidence.mean_at(name, last) for name, last in epochs.items())
    fc_runs, conv_runs = (evidence.runs(name) for name in epochs)
    text = (
        f"at the reported settings {conv:.2f} against {fc:.2f} nats of the fully connected network (on test images "
        f"{conv_runs['test_neg_elbo'].mean():.2f} against {fc_runs['test_neg_elbo'].mean():.2f})"
    )
    figures, runs = {"fc": fc, "conv": conv}, [*fc_runs["run_id"], *conv_runs["run_id"]]
    both = min(epochs.values())
    better, worst = [], conv - fc
    for rate, *pair in (("1e-3", "mnist_fc", "mnist_conv_lr_1e3"), ("1e-4", "mnist_fc_lr_1e4", "mnist_conv")):
        dense, convolutional = (evidence.mean_at(name, both) for name in pair)
        better.append(convolutional < dense)
        worst = max(worst, convolutional - dense)
        figures |= {f"fc_{rate}": dense, f"conv_{rate}": convolutional}
        text += f"; at learning rate {rate}, both after {both} epochs, {convolutional:.2f} against {dense:.2f}"
        runs += [run_id for name in pair for run_id in evidence.runs(name, both)["run_id"]]
    because = "Which is better depends on the learning rate"
    if all(better):
        because = "At equal settings the convolutional network has the lower cost: learning rate and epochs explain "
        because += "the reported order"
    elif not any(better):
        because = "It has the higher cost at equal settings too: the architecture explains it"
    number = f"{worst:+.2f} nats at most against the fully connected network, limit 0"
    return Finding(holds(worst < 0), f"{text}. {because}.", number, figures, tuple(dict.fromkeys(runs)))


def _command(name: str, epoch: int) -> str:
    return run_command(name, epoch, result_at(name, epoch).seeds)


CLAIMS = (
    *(
        Claim(
            f"cost_{key}",
            line,
            f"the training cost of {name} at epoch {epoch}, all planned seeds",
            "the verdict is reproduced or consistent",
            partial(printed_cost, name, epoch),
        )
        for key, (name, epoch, line) in LINES.items()
    ),
    *(
        Claim(
            f"curve_{key}",
            SECOND_PLOT,
            f"the cost of epochs 1 to {epoch} of {name}, all planned seeds, and the published curve as one more run: "
            "each curve's largest distance from the mean of the others, in their standard deviations, but at least in "
            "reading errors",
            f"the rank of the published curve gives a permutation p value above {curves.LEVEL} (an earlier criterion, "
            "on the epochs at which half and nine tenths of the fall are done, compared one run with a mean and was "
            "judged on misread curves: it did not hold for any of the three)",
            partial(curve_like_ours, name, epoch),
        )
        for key, (name, epoch, _) in LINES.items()
    ),
    one_sample_can_be_used,
    convolution_better,
)
