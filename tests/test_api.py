"""The Python interface: the bits of `repro run`, refused images, finished runs without their data, the notebook."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.process import in_a_process
from torch import Tensor

import repro
from repro import Data, Model, build, experiment, load_data, load_run, names, picture, plot_costs, train
from repro.errors import UsageError
from repro.runs import config
from repro.tracking import reader
from repro.training.checkpoint import digest

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = ["--set", "optim.lr=2e-3", "--epochs", "2", "--seed", "3", "--threads", "1", "--data", "stand-in"]
ENTRY = experiment("mnist_fc", "optim.lr=2e-3", "training.epochs=2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a finished run."""
    folder = tmp_path_factory.mktemp("done")
    process = in_a_process("run", "mnist_fc", *OPTIONS, cwd=folder)
    assert process.returncode == 0, process.stderr
    return folder


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data(ENTRY, "stand-in")


@pytest.fixture(scope="module")
def model() -> Model:
    return build(ENTRY, seed=3, threads=1)


def test_training_has_the_bits_of_a_run_and_a_finished_run_needs_no_data(
    folder: Path, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, seen = build(ENTRY, seed=3, threads=1), []
    first = train(own, data.train, after_epoch=seen.append)
    torch.set_num_threads(2)  # another part of the program may do so
    second = train(own, data.train, after_epoch=seen.append)
    assert [*first, *second] == seen == own.history
    assert [row.epoch for row in seen] == [1, 2]

    def no_data(*_: object) -> None:
        raise AssertionError("the data set was looked for")

    monkeypatch.chdir(folder)
    monkeypatch.setattr(config.data, "load", no_data)
    (run,) = Path("mlruns/runs").iterdir()
    loaded = load_run(run.name[:6], threads=1)
    assert (loaded.run_id, loaded.seed, loaded.spec) == (run.name, 3, ENTRY.spec)
    assert loaded.history == own.history
    assert digest(loaded.network.state_dict()) == digest(own.network.state_dict())
    costs = reader.run(run.name).metrics[names.TEST_NEG_ELBO]
    assert loaded.costs(data.test).cost == own.costs(data.test).cost == costs
    shown = reader.last_image(run.name, "samples")
    assert shown is not None
    assert picture(loaded.sample()).tobytes() == shown.convert("RGB").tobytes()
    with pytest.raises(UsageError, match="has no optimiser state; build a new model"):
        train(loaded, data.train)


def test_data_are_pixels_in_0_to_1_of_the_bytes(data: Data) -> None:
    for part, name in ((data.train, "train"), (data.heldout, "heldout"), (data.test, "test")):
        pixels = getattr(data.dataset, name)
        assert (part.dtype, part.shape[1:]) == (torch.float32, (1, 28, 28))
        assert part.min() == 0
        assert part.max() == pixels.max() / 255
        assert torch.equal((part * 255).round().byte(), pixels.permute(0, 3, 1, 2))


REFUSED = {
    "raw": (lambda x: x * 255, r"images: should be in \[0, 1\], are from 0 to 255; use images / 255"),
    "bytes": (lambda x: (x * 255).byte(), r"should be floats in \[0, 1\], are torch.uint8"),
    "centred": (lambda x: 2 * x - 1, r"are from -1 to 1$"),
    "not a number": (lambda x: x / 0, "are from nan to nan"),
    "channels last": (lambda x: x.permute(0, 2, 3, 1), r"shape \[N, 1, 28, 28\].*use images.permute\(0, 3, 1, 2\)"),
    "one image": (lambda x: x[0], r"are \[1, 28, 28\]; use images\[None\]"),
    "vectors": (lambda x: x.flatten(1), r"are \[200, 784\]$"),
    "cropped": (lambda x: x[..., 2:], r"are \[200, 1, 28, 26\]$"),
    "none": (lambda x: x[:0], "with N > 0"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_other_ranges_and_layouts_are_refused(fault: str, data: Data, model: Model) -> None:
    change, said = REFUSED[fault]
    images: Tensor = change(data.train[:200])
    for use in (model.encode, model.reconstruct, model.costs, lambda x: train(model, x)):
        with pytest.raises(UsageError, match=said):
            use(images)
    assert model.history == []


def test_wrong_use_is_one_sentence(data: Data, model: Model) -> None:
    with pytest.raises(UsageError, match=r"training\.batch_size=100: should be at most 99"):
        train(model, data.train[:99])
    with pytest.raises(UsageError, match=r"z: should be of shape \[N, 20\], is \[5, 19\]"):
        model.decode(torch.zeros(5, 19))
    with pytest.raises(UsageError, match="did you mean 'mnist_fc'"):
        experiment("mnist_fcc")
    with pytest.raises(UsageError, match=r"optim\.lrr.*\n?.*latent"):
        experiment("mnist_fc", "optim.lrr=1", "model.latent=-1")


def test_pictures_and_plots_show_what_they_are_given(data: Data, model: Model) -> None:
    trained = build(ENTRY, threads=1)
    train(trained, data.train)
    shown = picture(model.reconstruct(data.test[:7]), columns=5)
    assert (shown.size, shown.mode) == ((5 * 28, 2 * 28), "RGB")
    assert picture(data.test[:1], 1).getpixel((14, 14)) == 3 * (int(data.dataset.test[0, 14, 14]),)
    for published, labels in ((True, ["reported", "ours"]), (False, ["ours"])):
        (axes,) = plot_costs({"ours": trained}, published).axes
        assert [line.get_label() for line in axes.lines] == labels
        assert axes.lines[-1].get_ydata() == [trained.history[0].cost]


def test_importing_the_package_waits_for_nothing() -> None:
    code = "import sys, repro; assert not {'torch', 'pydantic', 'typer'} & set(sys.modules), sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert repro.__version__
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        repro.trian  # noqa: B018 - the lookup is the test


@pytest.mark.slow
def test_the_notebook_runs_and_is_committed_without_output(capfd: pytest.CaptureFixture[str]) -> None:
    notebook = json.loads((ROOT / "docs" / "python.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in cells)
    scope: dict[str, object] = {}
    for cell in cells:
        exec("".join(cell["source"]), scope)
    printed = capfd.readouterr().out
    assert "Epoch(epoch=2, cost=" in printed
    assert "use images / 255" in printed
    assert [len(scope[name].history) for name in ("model", "finished")] == [2, 2]  # type: ignore[attr-defined]
