"""The glossary: every metric, tag and artifact that a run logs, with unit and meaning. Written once, here."""

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
    ENTROPY_FLOOR: "nats per image; mean summed pixel entropy of the training images, below which no Bernoulli cost falls",
    EPOCH_SECONDS: "seconds of the epoch's training, evaluation and logging left out",
}

SEED = "seed"
SETTINGS = {
    "device": "where it was computed: cpu or cuda",
    "threads": "CPU threads",
    "precision": "float32, or mixed: matrix products in bfloat16, weights and costs in float32",
    "engine": "how steps were computed: fast, or plain where that does not cover the experiment or the machine",
    "products": "the library of the fast engine's matrix products: mkl, onednn or bfloat16; - where there is no choice",
}
"""How a run's steps were computed, logged as params beside the spec's; the same settings give the same bits."""

SIGNATURE = "repro.signature"
COMPARABLE = "repro.comparable"
NOT_COMPARABLE_BECAUSE = "repro.not_comparable_because"
DATA_ORIGIN = "repro.data.origin"
DATA_STATUS = "repro.data.status"
DATA_FINGERPRINT = "repro.data.fingerprint"
REPORTED_COST = "repro.reported.cost"
REPORTED_EPOCH = "repro.reported.epoch"
REPORTED_SOURCE = "repro.reported.source"
COMMAND = "repro.command"
GIT_DIRTY = "repro.git.dirty"
WEIGHTS_SHA256 = "repro.weights.sha256"
ERROR = "repro.error"
SPEC_FILE = "spec.json"
"""Artifact: the whole spec as JSON."""
