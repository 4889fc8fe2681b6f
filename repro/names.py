"""The glossary: every metric, tag and artifact that a run logs, with unit and meaning. Written once, here."""

from typing import Literal

Status = Literal["FINISHED", "FAILED", "KILLED"]
"""How a run ended, in MLflow's words."""

COST = "cost"
RECONSTRUCTION = "reconstruction"
KL = "kl"
HELDOUT_NEG_ELBO = "heldout_neg_elbo"
TEST_NEG_ELBO = "test_neg_elbo"
TEST_RECONSTRUCTION = "test_reconstruction"
TEST_KL = "test_kl"
IMAGES_PER_SECOND = "images_per_second"
EPOCH_SECONDS = "epoch_seconds"
ENTROPY_FLOOR = "entropy_floor"

METRICS = {
    COST: "nats per image; mean over the epoch's training steps of reconstruction + KL, while the weights move",
    RECONSTRUCTION: "nats per image; the cost's first part, -log p(x|z)",
    KL: "nats per image; the cost's second part, KL(q(z|x) || p(z))",
    HELDOUT_NEG_ELBO: "nats per image; negative ELBO after the epoch on images not trained on, one draw of z each",
    TEST_NEG_ELBO: "nats per image; negative ELBO of the final weights on the test images, ten draws of z each",
    TEST_RECONSTRUCTION: "nats per image; its first part",
    TEST_KL: "nats per image; its second part",
    IMAGES_PER_SECOND: "training images per second of the epoch's training, evaluation and logging left out",
    ENTROPY_FLOOR: "nats per image; mean summed pixel entropy of the training images, below which no Bernoulli cost is",
    EPOCH_SECONDS: "seconds of the epoch's training, evaluation and logging left out",
}

OVER_SEEDS = (COST, RECONSTRUCTION, KL, HELDOUT_NEG_ELBO, TEST_NEG_ELBO)
"""What the parent of several seeds logs of its finished ones: each of these as `_mean`, `_low` and `_high`."""
SPREAD = {"mean": "mean over the finished seeds", "low": "lowest of them", "high": "highest of them"}
SEEDS_FINISHED = "seeds_finished"
PARENT_METRICS = {f"{name}_{key}": f"{METRICS[name]}; {words}" for name in OVER_SEEDS for key, words in SPREAD.items()}
PARENT_METRICS[SEEDS_FINISHED] = "how many seeds the others are over"

TEST_LOG_PX = "test_log_px"
TEST_EFFECTIVE_SAMPLE_SIZE = "test_effective_sample_size"
TEST_NEG_ELBO_MANY = "test_neg_elbo_many"
TEST_EXCESS_OVER_FLOOR = "test_excess_over_floor"
ACTIVE_UNITS = "active_units"
MEASUREMENT_METRICS = {
    TEST_LOG_PX: "nats per image; importance-weighted lower bound of log p(x), the mean over the first test images, "
    "500 of them with K = 5,000 draws of z each, unless the rows log_px_images and log_px_samples say otherwise",
    TEST_EFFECTIVE_SAMPLE_SIZE: "draws; (sum w)^2 / sum w^2 of those K weights, the median over the images",
    TEST_NEG_ELBO_MANY: "nats per image; negative ELBO of all test images, 100 draws of z each unless the row "
    "elbo_draws says otherwise",
    TEST_EXCESS_OVER_FLOOR: "nats per image; by how much that is above the entropy floor of the test images",
    ACTIVE_UNITS: "latent dimensions whose E_q[z] has a variance over the test images above 0.01",
}
"""Metrics that measurements of a finished run log at its last epoch, beside the entropy floor."""
MEASUREMENT_ROWS = {(name, ""): name for name in MEASUREMENT_METRICS} | {(ENTROPY_FLOOR, "train"): ENTROPY_FLOOR}
"""The metric that a measurement's row is logged as, by quantity and group."""
MEASUREMENT = "repro.study."
"""Beginning of the tag of a measurement that was made of a run; the value is its date and command."""

SEED = "seed"
SETTINGS = {
    "device": "where it was computed: cpu or cuda",
    "threads": "CPU threads",
    "precision": "float32, or mixed: matrix products in bfloat16, weights and costs in float32",
    "engine": "how steps were computed: fast, or plain where that does not cover the experiment or the machine",
    "products": "the library of the fast engine's matrix products: mkl, onednn or bfloat16; - where there is no choice",
}
"""How a run's steps were computed, logged as params beside the spec's; the same settings give the same bits."""

KIND = "repro.kind"
"""Tag of a run in the store that is no trained run but a parent of some: what kind of parent."""
KIND_SEEDS = "seeds"
KIND_SWEEP = "sweep"
SWEEP = "repro.sweep"
"""Tag: the name of the study that a run is a trial of, or the parent, or what came of it."""
TRIAL = "repro.trial"
TRIAL_STATE = "repro.trial.state"
"""Tag: running, waiting, complete, pruned, failed, or abandoned for a run that another run was begun in place of."""
FINISH_FILE = "finish.json"
"""Artifact of a study's parent: what retraining its best settings came to."""
BEST_HELDOUT = "best_heldout_neg_elbo"
BEST = "repro.best."
"""Beginning of tags of a study's parent: trial, value and settings of the best trial so far."""
SEEDS = "repro.seeds"
PARENT = "mlflow.parentRunId"
RUN_NAME = "mlflow.runName"

SIGNATURE = "repro.signature"
COMPARABLE = "repro.comparable"
NOT_COMPARABLE_BECAUSE = "repro.not_comparable_because"
DATA_ORIGIN = "repro.data.origin"
DATA_STATUS = "repro.data.status"
DATA_FINGERPRINT = "repro.data.fingerprint"
PLAN_COMMIT = "repro.plan.commit"
PLAN_DATE = "repro.plan.date"
"""Tags: the last commit that changed the experiment's file, which holds the plan, before the run began; its date."""
COMMAND = "repro.command"
GIT_DIRTY = "repro.git.dirty"
WEIGHTS_SHA256 = "repro.weights.sha256"
ERROR = "repro.error"
CAUSE = "repro.cause"
"""Tag: the kind of error that ended a run early; NOT_FINITE where its cost was no longer a number."""
NOT_FINITE = "NotFiniteError"
VERDICT = "repro.verdict"
"""Tag: what the seeds of the run's experiment say of the reported cost, set when they are compared."""
SPEC_FILE = "spec.json"
"""Artifact: the whole spec as JSON."""
WEIGHTS_FILE = "weights.safetensors"
"""Artifact: the final weights, whose digest is the tag repro.weights.sha256."""
