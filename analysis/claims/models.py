"""Claims about trained models: the objective and its gradient, digits that look real, blurry photographs."""

from functools import partial

from repro.analysis.claims.evidence import Claim, Evidence, Finding, claim, holds, result_at
from repro.analysis.tables import DIVERGED

from repro import registry

FAR_HIGHER = 10.0
"""Ratio of two variances from which one is far higher."""
STANDARD_ERRORS = 4.0
"""Largest difference between an estimate and its expected value."""
BEHIND = 5
"""An estimator is practical if its cost reaches that of the pathwise estimator after this many epochs."""
ALMOST = 0.9
"""Share of the way from the confidence on the mean image to that on test digits."""
APART = 0.75
"""Accuracy of telling samples from handwritten digits; chance is 0.5."""
BLURRY = 0.5
"""Share of high frequencies, relative to the data."""
SIMILAR = 0.5
"""Correlation of neighbouring pixels."""


@claim(
    "This estimator has a high variance",
    "total variance of the encoder's gradient of the reconstruction on real minibatches, score function over "
    "pathwise, one sample each, at several epochs",
    f"at least {FAR_HIGHER:.0f} times as high at every epoch",
)
def score_function_variance(evidence: Evidence) -> Finding:
    measurement = evidence.measurement("mnist_fc", "gradients")
    ratios = measurement.by_x("gradient_variance_ratio")
    lowest, highest = float(ratios.min()), float(ratios.max())
    text = f"{lowest:.3g} to {highest:.3g} times as high, at epochs {', '.join(f'{x:g}' for x in ratios.index)}"
    figures = {f"ratio_epoch_{x:g}": float(ratio) for x, ratio in ratios.items()}
    number = f"{lowest:.3g} times the variance at least, limit {FAR_HIGHER:.0f}"
    return Finding(holds(lowest >= FAR_HIGHER), text, number, figures, (measurement.run_id,))


@claim(
    "and hence is not practical.",
    "mnist_fc trained by the score function in place of the pathwise estimator",
    f"its cost does not come down to what the pathwise estimator has reached after {BEHIND} epochs (that a run "
    "which diverged is an outcome too was decided after this one had)",
)
def score_function_not_practical(evidence: Evidence) -> Finding:
    runs = evidence.trained("mnist_fc_score_function").head(1)
    run, curve = runs.iloc[0], evidence.tables.curves_of(runs)["cost"]
    epochs, lowest = int(run["epochs"]), float(curve.min())
    other, early = evidence.mean_at("mnist_fc", epochs), evidence.mean_at("mnist_fc", BEHIND)
    then = ", after which its cost was not finite" if run["status"] == DIVERGED else ""
    return Finding(
        holds(lowest > early),
        f"{lowest:.2f} nats at the lowest in {epochs} epochs by the score function{then}; by the pathwise estimator "
        f"{early:.2f} after {BEHIND}, {other:.2f} after {epochs}",
        f"{lowest:.2f} nats at the lowest, limit {early:.2f}",
        {"score_function_lowest": lowest, "pathwise": other, f"pathwise_epoch_{BEHIND}": early},
        (str(run["run_id"]), *evidence.runs("mnist_fc")["run_id"]),
    )


@claim(
    "Since KL divergence is always >= 0, we get: sum log p(x) >= L(theta, phi)",
    "ELBO and importance-weighted estimate of log p(x) of a trained model on test images",
    f"the estimate is not below the ELBO by more than {STANDARD_ERRORS:.0f} standard errors",
)
def elbo_is_a_bound(evidence: Evidence) -> Finding:
    measurement = evidence.measurement("mnist_fc", "evaluation")
    elbo, row = -measurement.value("test_neg_elbo_many", "images of log p(x)"), measurement.row("test_log_px")
    log_px, error = float(row["value"]), float(row["standard_error"])
    return Finding(
        holds(log_px + STANDARD_ERRORS * error >= elbo),
        f"ELBO {elbo:.2f}, importance-weighted log p(x) {log_px:.2f} (standard error {error:.2f}) nats per test image",
        f"log p(x) is {log_px - elbo:+.2f} nats from the ELBO, limit {-STANDARD_ERRORS * error:.2f}",
        {"elbo": elbo, "log_px": log_px},
        (measurement.run_id,),
    )


def kl(form: str, evidence: Evidence) -> Finding:
    """Compare the KL in closed form or as the notebook prints it with a Monte Carlo estimate of its definition."""
    measurement = evidence.measurement("mnist_fc", "kl")
    value, row = measurement.value(f"kl_{form}"), measurement.row("kl_monte_carlo")
    estimate, error = float(row["value"]), float(row["standard_error"])
    difference = (value - estimate) / error
    return Finding(
        holds(abs(difference) <= STANDARD_ERRORS),
        f"{value:.4f} nats per image; the Monte Carlo estimate is {estimate:.4f} (standard error {error:.4f}), a "
        f"difference of {difference:+.1f} standard errors",
        f"{difference:+.1f} standard errors off, limit {STANDARD_ERRORS:.0f}",
        {form: value, "monte_carlo": estimate, "standard_errors_off": difference},
        (measurement.run_id,),
    )


@claim(
    "Putting it all together the likelihood function that has to be maximized looks like this: ... (e^s)^2",
    "mnist_fc trained with the KL as printed",
    "its final cost is within the margin of the reported cost",
)
def trained_as_printed(evidence: Evidence) -> Finding:
    reported = result_at("mnist_fc", registry.get("mnist_fc").spec.training.epochs)
    assert reported.margin is not None
    run, usual = evidence.runs("mnist_fc_kl_as_printed"), evidence.runs("mnist_fc")
    cost, test, usual_test = run["cost"].mean(), run["test_neg_elbo"].mean(), usual["test_neg_elbo"].mean()
    return Finding(
        holds(abs(cost - reported.cost) <= reported.margin),
        f"training with it ends at {cost:.2f} nats where {reported.cost:.2f} was reported; the true negative ELBO of "
        f"that model on test images is {test:.2f}, and {usual_test:.2f} after training with the closed form",
        f"{cost - reported.cost:+.2f} nats from the published cost, margin {reported.margin}",
        {"cost": float(cost), "test_neg_elbo": float(test), "test_neg_elbo_closed_form": float(usual_test)},
        (*run["run_id"], *usual["run_id"]),
    )


@claim(
    "For example adjacent pixels tend to have similar intensity values.",
    "correlation of the intensities of pixels side by side, over all images of the measurement",
    f"at least {SIMILAR} in both data sets",
)
def adjacent_pixels_similar(evidence: Evidence) -> Finding:
    measured = {name: evidence.measurement(name, "spectrum") for name in ("mnist_fc", "cifar_conv")}
    found = {name: measurement.value("neighbour_correlation", "data") for name, measurement in measured.items()}
    mnist, cifar = found.values()
    return Finding(
        holds(min(mnist, cifar) >= SIMILAR),
        f"correlation of a pixel with its right neighbour: MNIST {mnist:.3f}, CIFAR-10 {cifar:.3f}",
        f"correlation {min(mnist, cifar):.2f}, limit {SIMILAR}",
        found,
        tuple(measurement.run_id for measurement in measured.values()),
    )


@claim(
    "It can be seen that the network generates almost real looking digits",
    "confidence (largest class probability) of a classifier of handwritten digits",
    f"on samples at least {ALMOST:.0%} of the way from the mean image to test digits",
)
def digits_almost_real(evidence: Evidence) -> Finding:
    measurement = evidence.measurement("mnist_fc", "digits")
    groups = ("test digits", "samples", "mean image", "class means")
    test, drawn, mean, blurred = (measurement.value("mean_confidence", of) for of in groups)
    accuracy = measurement.value("classifier_accuracy")
    share = (drawn - mean) / (test - mean)
    return Finding(
        holds(share >= ALMOST),
        f"a classifier with {accuracy:.2%} test accuracy is {drawn:.3f} confident on samples, {test:.3f} on test "
        f"digits, {mean:.3f} on the mean image: {share:.0%} of the way. The blurred means of the classes have "
        f"{blurred:.3f}: confidence says that the class is clear, not that the image looks real",
        f"{share:.0%} of the way to the confidence on real digits, limit {ALMOST:.0%}",
        {"samples": drawn, "test_digits": test, "mean_image": mean, "share": share, "classifier_accuracy": accuracy},
        (measurement.run_id,),
    )


@claim(
    "which in most cases can not be distinguished from handwritten digits using naked eye.",
    "a classifier trained to tell samples from handwritten digits, on images that it has not seen",
    f"it is right in at most {APART:.0%} of the cases",
)
def digits_not_distinguished(evidence: Evidence) -> Finding:
    measurement = evidence.measurement("mnist_fc", "digits")
    row = measurement.row("real_or_generated_accuracy")
    return Finding(
        holds(row["value"] <= APART),
        f"a classifier trained for it tells {row['value']:.1%} of them apart (standard error "
        f"{row['standard_error']:.1%}; 50% is chance). A naked eye is not a classifier: this asks more than the "
        "notebook does",
        f"{row['value']:.1%} told apart by a classifier, limit {APART:.0%}",
        {"accuracy": float(row["value"])},
        (measurement.run_id,),
    )


@claim(
    "It can be seen that the images that are generated by the variational autoencoder in this case are blurry.",
    "share of the images' spectral energy above half the Nyquist frequency",
    f"samples have at most {BLURRY:.0%} of the data's",
)
def cifar_blurry(evidence: Evidence) -> Finding:
    measurement = evidence.measurement("cifar_conv", "spectrum")
    groups = ("data", "reconstructions", "samples")
    data, copies, drawn = (measurement.value("high_frequency_share", of) for of in groups)
    return Finding(
        holds(drawn <= BLURRY * data),
        f"share of spectral energy above half the Nyquist frequency: data {data:.3%}, reconstructions {copies:.3%}, "
        f"samples {drawn:.3%}, which is {drawn / data:.1%} of the data's, on "
        f"{evidence.runs('cifar_conv')['data'].iloc[0]}",
        f"{drawn / data:.1%} of the data's high frequencies, limit {BLURRY:.0%}",
        {"data": data, "reconstructions": copies, "samples": drawn, "ratio": drawn / data},
        (measurement.run_id,),
    )


CLAIMS = (
    score_function_variance,
    score_function_not_practical,
    elbo_is_a_bound,
    Claim(
        "kl_closed_form",
        "Since both p and q have been modelled as normal distributions, this KL divergence can be calculated "
        "analytically",
        "the closed form for the notebook's own variance, e^s, against the mean of log q(z|x) - log p(z), on test "
        "images",
        f"within {STANDARD_ERRORS:.0f} standard errors of the Monte Carlo estimate",
        partial(kl, "closed_form"),
    ),
    Claim(
        "kl_as_printed",
        "KL[q || p] = -1/2 sum (1 + s - mu^2 - (e^s)^2)",
        "the formula as printed, on the same images and draws",
        f"within {STANDARD_ERRORS:.0f} standard errors of the Monte Carlo estimate",
        partial(kl, "as_printed"),
    ),
    trained_as_printed,
    adjacent_pixels_similar,
    digits_almost_real,
    digits_not_distinguished,
    cifar_blurry,
)
