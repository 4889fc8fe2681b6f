"""repro: reruns published variational-autoencoder results, tracks every run and compares it with what was reported."""
