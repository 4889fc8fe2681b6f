"""The layers of a model in one readable line."""

from repro.spec.experiment import VAE, Conv, Dense, Layer, MeanPool, Reshape, TConv


def architecture(model: VAE) -> str:
    """Return encoder, size of the latent, decoder: `dense 500 → 20 → dense 500, dense 784; softplus`."""
    encoder, decoder = (", ".join(map(_words, layers)) for layers in (model.encoder, model.decoder))
    return " → ".join(filter(None, (encoder, str(model.latent), decoder))) + f"; {model.activation}"


def _words(layer: Layer) -> str:
    match layer:
        case Dense():
            text = f"dense {layer.units}"
        case Conv():
            text = f"conv {layer.kernel}x{layer.kernel} {layer.channels}"
        case MeanPool():
            return f"pool {layer.size}"
        case TConv():
            text = f"tconv {layer.kernel}x{layer.kernel} {layer.channels}"
            text += f" stride {layer.stride}" if layer.stride != 2 else ""
        case Reshape():
            return f"reshape {layer.channels}x{layer.height}x{layer.width}"
    return f"{text} {layer.activation}" if layer.activation else text
