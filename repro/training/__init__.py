"""Training one model: an epoch, a trainer over epochs, checkpoints."""
