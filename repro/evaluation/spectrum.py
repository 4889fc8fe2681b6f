"""Blurriness: the share of images' spectral energy at high frequencies, compared with the share in data."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repro.engine import to_batch
from repro.evaluation.batches import generated, posterior
from repro.measurement import Measurement, Row, mean_row
from repro.model import VAE
from repro.rng import stream

HALF = 0.5  # of the Nyquist frequency, above which a frequency is high
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601


def blurriness(model: VAE, images: Tensor, count: int = 5000, seed: int = 0) -> Measurement:
    """Measure the spectra of the first `count` images, of their reconstructions and of samples. uint8 [N, H, W, C].

    A row `spectrum` is the mean power at a frequency as a share of the power at all frequencies; its `x` is the
    frequency as a share of the Nyquist frequency. Samples and reconstructions are means of p(x|z); reconstructions
    decode the mean of q(z|x). Standard errors are over images.
    """
    shown = images[:count]
    z = torch.randn((len(shown), model.latent), generator=stream("spectrum samples", seed))
    groups = {
        "data": to_batch(shown),
        "reconstructions": generated(model, posterior(model, shown)[0]),
        "samples": generated(model, z),
    }
    rows, share = [], {}
    for group, pixels in groups.items():
        power, frequency = spectra(luminance(pixels.double().numpy()))
        rows += [Row("spectrum", value, "share of energy", group, x) for x, value in radial(power, frequency)]
        share[group] = mean_row("high_frequency_share", high_share(power, frequency), "share of energy", group)
        rows.append(share[group])
    data = share["data"]
    for drawn in (share["reconstructions"], share["samples"]):
        ratio = drawn.value / data.value
        # by the delta method
        error = math.hypot(drawn.standard_error or math.nan, ratio * (data.standard_error or math.nan)) / data.value
        rows.append(Row("high_frequency_ratio", ratio, "of the data's share", drawn.group, None, error))
    across = neighbours(groups["data"].double().numpy())
    rows.append(Row("neighbour_correlation", across, "correlation of pixels side by side", "data"))
    return Measurement(rows)


def luminance(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the brightness of images. [N, C, H, W], C 1 or 3 -> [N, H, W]."""
    return pixels[:, 0] if pixels.shape[1] == 1 else np.einsum("nchw,c->nhw", pixels, np.array(LUMINANCE))


def spectra(grey: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the power at each frequency, the mean removed, and the frequencies as shares of the Nyquist frequency.

    [N, H, W] -> [N, H, W], [H, W].
    """
    power = np.abs(np.fft.fft2(grey - grey.mean((1, 2), keepdims=True))) ** 2
    rows, columns = (np.fft.fftfreq(size) * 2 for size in grey.shape[1:])  # in cycles a pixel, Nyquist's being 1/2
    return power, np.hypot(rows[:, None], columns[None, :])


def high_share(power: NDArray[np.float64], frequency: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of each image's energy above half the Nyquist frequency, 0 for a uniform image. -> [N]."""
    total = power.sum((1, 2))
    high: NDArray[np.float64] = power[:, frequency > HALF].sum(1)
    share: NDArray[np.float64] = np.divide(high, total, out=np.zeros_like(high), where=total > 0)
    return share


def radial(power: NDArray[np.float64], frequency: NDArray[np.float64]) -> list[tuple[float, float]]:
    """Return frequencies and mean powers, as shares of the total, in rings of one cycle an image up to Nyquist's.

    [N, H, W], [H, W] -> one pair for each ring.
    """
    mean = power.mean(0)
    total = mean.sum() or 1.0  # uniform images have no energy
    most = min(frequency.shape) // 2  # cycles an image at Nyquist's frequency
    ring = np.rint(frequency * most)
    return [(cycles / most, float(mean[ring == cycles].mean() / total)) for cycles in range(1, most + 1)]


def neighbours(pixels: NDArray[np.float64]) -> float:
    """Return the correlation between a pixel and its right neighbour, over all images. [N, C, H, W]."""
    left, right = pixels[..., :-1].ravel(), pixels[..., 1:].ravel()
    return float(np.corrcoef(left, right)[0, 1])
