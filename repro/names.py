"""The glossary: every metric, tag and artifact that a run logs, with unit and meaning."""

from typing import Literal

Status = Literal["FINISHED", "FAILED", "KILLED", "RUNNING"]
"""How a run ended, in MLflow's words; RUNNING if another process trains it."""

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

METRICS = {  # the test metrics and the entropy floor once, at the end; the others at each epoch
    COST: "nats per image; mean over the epoch's training steps of reconstruction + KL, while the weights move",
    RECONSTRUCTION: "nats per image; the cost's first part, -log p(x|z)",
    KL: "nats per image; the cost's second part, KL(q(z|x) || p(z)), by the formula that training.kl names",
    HELDOUT_NEG_ELBO: "nats per image; negative ELBO after the epoch on images not trained on, one draw of z each",
    TEST_NEG_ELBO: "nats per image; negative ELBO of the final weights on the test images, ten draws of z each",
    TEST_RECONSTRUCTION: "nats per image; first part of test_neg_elbo, -log p(x|z)",
    TEST_KL: "nats per image; second part of test_neg_elbo, KL(q(z|x) || p(z))",
    IMAGES_PER_SECOND: "training images per second of training, without evaluation and logging",
    ENTROPY_FLOOR: "nats per image; mean summed pixel entropy of the training images, a lower bound of Bernoulli costs",
    EPOCH_SECONDS: "seconds of the epoch's training, without evaluation and logging",
}

OVER_SEEDS = (COST, RECONSTRUCTION, KL, HELDOUT_NEG_ELBO, TEST_NEG_ELBO)
"""Metrics whose `_mean`, `_low` and `_high` over the finished seeds are logged to the parent run of the seeds."""
SUMMARIES = {"mean": "mean over the finished seeds", "low": "lowest of them", "high": "highest of them"}
SEEDS_FINISHED = "seeds_finished"
PARENT_METRICS = {f"{name}_{key}": f"{METRICS[name]}; {text}" for name in OVER_SEEDS for key, text in SUMMARIES.items()}
PARENT_METRICS[SEEDS_FINISHED] = "number of seeds that the other metrics are over"

ACTIVE_VARIANCE = 0.01
"""Variance over images of a latent mean, E_q[z_d], above which a dimension is active (Burda et al. 2016)."""
MEASUREMENT_METRICS = {
    "test_log_px": "nats per image; importance-weighted lower bound of log p(x), the mean over the first test images; "
    "the rows log_px_images and log_px_samples say how many images, and K, the draws of z for each",
    "test_effective_sample_size": "draws; (sum w)^2 / sum w^2 of those K weights, the median over the images",
    "test_neg_elbo_many": "nats per image; negative ELBO of all test images, 100 draws of z each unless the row "
    "elbo_draws says otherwise",
    "test_excess_over_floor": "nats per image; by how much that is above the entropy floor of the test images",
    "active_units": f"latent dimensions whose E_q[z] has a variance over the test images above {ACTIVE_VARIANCE}",
}
"""Metrics that measurements of a finished run log at the run's last epoch, beside the entropy floor."""
MEASUREMENT_ROWS = {(name, ""): name for name in MEASUREMENT_METRICS} | {(ENTROPY_FLOOR, "train"): ENTROPY_FLOOR}
"""The metric that a row of a measurement is logged as, by the row's quantity and group."""
MEASUREMENT = "repro.study."
"""Prefix of the tag of a measurement of a run; the value is the date and the command of the measurement."""

SEED = "seed"
SETTINGS = {
    "device": "where it was computed: cpu or cuda",
    "threads": "CPU threads",
    "precision": "float32, or mixed: matrix products in bfloat16, weights and costs in float32",
    "engine": "how steps were computed: fast, or plain where that does not cover the experiment or the machine",
    "products": "the library of the fast engine's matrix products: mkl, onednn or bfloat16; - where there is no choice",
}
"""How a run's steps were computed, logged as params beside the spec. The same settings give the same bits."""
ARCHITECTURE = "architecture"
"""Param: the layers of the model in one line."""
SHOWN_PARAMS = (
    SEED, "training.epochs", "optim.lr", "training.batch_size", "model.latent", ARCHITECTURE, "model.likelihood",
    "data.name", "device", "threads", "precision", "engine",
)  # fmt: skip
"""Params that MLflow shows, beside those in the tag repro.set. All other settings are in the tag repro.details."""
SET = "repro.set"
"""Tag: the settings, by dotted key, that --set, --epochs or a trial gave a value; separated by spaces."""
DETAILS = "repro.details"
"""Tag: JSON with the params and tags of a run that MLflow does not show by themselves."""
DETAIL_TAGS = (
    DETAILS, SET, "repro.cores", "repro.cpu", "repro.data.origin", "repro.git.dirty", "repro.gpu", "repro.memory_gib",
    "repro.plan.", "repro.platform", "repro.python", "repro.version.",
)  # fmt: skip
"""Beginnings of the names of the tags that are in repro.details."""
LONGEST_TAG = 5000
"""Characters that every tracking store takes as the value of a tag."""

BEST_HELDOUT = "best_heldout_neg_elbo"
"""Metric of a study's parent run, by the number of complete trials: the held-out cost of the best, nats per image."""
SHOWN_METRICS = {
    COST: "train/cost",
    RECONSTRUCTION: "train/reconstruction",
    KL: "train/kl",
    ENTROPY_FLOOR: "train/entropy_floor",
    HELDOUT_NEG_ELBO: "heldout/neg_elbo",
    BEST_HELDOUT: "heldout/best_neg_elbo",
    TEST_NEG_ELBO: "test/neg_elbo",
    TEST_RECONSTRUCTION: "test/reconstruction",
    TEST_KL: "test/kl",
    IMAGES_PER_SECOND: "time/images_per_second",
    EPOCH_SECONDS: "time/epoch_seconds",
    **{name: f"evaluation/{name.removeprefix('test_')}" for name in MEASUREMENT_METRICS},
    **{name: f"seeds/{name.removeprefix('seeds_')}" for name in PARENT_METRICS},
}
"""The names of metrics in MLflow, which groups its charts by what is before the slash.

In the store of an earlier version, and everywhere but in MLflow, metrics have their names without a group.
"""

KIND = "repro.kind"
"""Tag of a parent run: the kind of its children. A trained run does not have it."""
KIND_SEEDS = "seeds"
KIND_SWEEP = "sweep"
SWEEP = "repro.sweep"
"""Tag: the study of a trial's run, of the trials' parent run, or of a run that retrains a trial's settings."""
TRIAL = "repro.trial"
TRIAL_STATE = "repro.trial.state"
"""Tag: running, waiting, complete, pruned, failed, or abandoned for a run that another run replaces."""
FINISH_FILE = "finish.json"
"""Artifact of a study's parent run: the results of retraining the best settings."""
BEST = "repro.best."
"""Prefix of tags of a study's parent run: trial, value and settings of the best trial so far."""
SEEDS = "repro.seeds"
CLAIM = "repro.claim"
"""Tag from the first moment of a run: signature, data, precision and seed. Only one process is to train a claim."""
RUN_ID = "repro.run_id"
"""Tag: the id of a run that was imported, or begun while the store was silent; the store gave it another one."""
BEGUN = "repro.begun"
"""Tag from the first moment of a run: the id that its directory had before the tracking store gave the run an id."""
INCOMPLETE = "repro.incomplete"
"""Tag of a run while it is being imported. Such a run is not read."""
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
"""Tags: the last commit before the run that changed the experiment's file, which holds the plan; its date."""
GIT_DIRTY = "repro.git.dirty"
WEIGHTS_SHA256 = "repro.weights.sha256"
ERROR = "repro.error"
CAUSE = "repro.cause"
"""Tag: the kind of error that ended a run early; NOT_FINITE if its cost was no longer a number, VANISHED."""
NOT_FINITE = "NotFiniteError"
VANISHED = "vanished"
"""The process was killed, and could not say so itself."""
VERDICT = "repro.verdict"
"""Tag: the verdict of the seeds of the run's experiment on the reported cost."""
SPEC_FILE = "spec.json"
"""Artifact: the whole spec as JSON."""
BY_EPOCH = "by_epoch"
"""Artifact folder of pictures of some epochs. Those of the final weights are artifacts outside folders."""
WEIGHTS_FILE = "weights.safetensors"
"""Artifact: the final weights, whose digest is the tag repro.weights.sha256."""
CLASSES = {
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}
"""The names of a data set's classes 0, 1, ...; the classes of MNIST are digits."""
