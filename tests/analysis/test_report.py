"""The report from a store whose runs nobody trained: complete, repeatable, and noticed when it drifts."""

import itertools
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from repro.analysis.plots import runs as plots
from repro.analysis.report import document
from repro.analysis.report.readme import MARKS
from repro.analysis.report.summary import NOTEBOOK
from support import synthetic
from support.process import ROOT, client, repro

from repro import cli, names
from repro.measurement import Measurement, Row
from repro.tracking import artifacts, reader


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store, and the report of it in `results`."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ids = [synthetic.run("mnist_fc", seed, 96.2 + (seed - 100) / 100) for seed in range(100, 112)]
        synthetic.run("mnist_fc_pytorch_init", 0, 95.0)
        synthetic.run(
            "mnist_conv", 0, 99.0, data="stand-in", reason="it was trained on a stand-in, not on the real data"
        )
        kl = [Row("kl_of_dimension", 2.0 - d, "nats per image", x=d) for d in range(2)]
        kl += [Row("variance_of_mean", 0.5 * (1 - d), "-", x=d) for d in range(2)]
        pixels = np.full((56, 84, 1), 128, np.uint8)
        artifacts.log_measurement(reader.run(ids[0]), "evaluation", Measurement(kl), "python -m repro evaluate")
        points = [
            Row(f"latent_{name}_{axis}", float(index), "-", str(index % 2), index)
            for name in ("pca", "tsne")
            for axis in (1, 2)
            for index in range(6)
        ]
        artifacts.log_measurement(
            reader.run(ids[0]), "latents", Measurement(points, {"samples": pixels}), "python -m repro evaluate"
        )
        artifacts.log_measurement(
            reader.run(ids[0]), "digits", Measurement([Row("other", 1.0, "-")]), "python -m repro evaluate"
        )
    process = repro("report", "--update", cwd=folder)
    assert process.returncode == 0, process.stderr
    return folder


class Page(HTMLParser):
    """What a test asks of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))


def test_it_has_the_verdict_the_curves_and_the_pictures(made: Path) -> None:
    text = (made / "results/report.html").read_text().replace("<wbr>", "")
    markdown = (made / "RESULTS.md").read_text()
    for each in (text, markdown):
        assert "reproduced" in each
        assert "mnist_fc_pytorch_init" in each
        assert "The mean of 12 runs is " in each
        assert "stand-in" not in re.sub(r"<style>.*?</style>", "", each, flags=re.DOTALL)
    assert "measurement digits cannot be drawn" in text
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", markdown)
    assert "results/figures/curves_mnist_fc_100.png" in pictures
    assert "results/figures/mnist_fc_samples.png" in pictures
    assert all((made / picture).is_file() for picture in [*pictures, "results/figures/readme.png"])


def test_it_needs_nothing_but_itself(made: Path) -> None:
    text = (made / "results/report.html").read_text()
    for tag, attributes in Page(text).tags:
        for key in ("src", "href", "xlink:href", "action"):
            assert attributes.get(key, "#").startswith(("#", "data:")), (tag, attributes)
    assert not re.findall(r"url\((?!#)", text)
    assert "@import" not in text


def test_every_picture_has_a_size_and_words_and_headings_are_in_order(made: Path) -> None:
    tags = Page((made / "results/report.html").read_text()).tags
    pictures = [attributes for tag, attributes in tags if tag in ("img", "svg")]
    assert len(pictures) > 3
    for each in pictures:
        assert each.get("alt") or each.get("aria-label")
        assert each["width"]
        assert each["height"]
    levels = [int(tag[1]) for tag, _ in tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids)), "ids are unique, those of the plots too"


def test_no_text_of_a_plot_is_black_on_a_dark_page(made: Path) -> None:
    texts = re.findall(r"<text [^>]*>", (made / "results/report.html").read_text())
    assert len(texts) > 50
    assert not [text for text in texts if "fill:" not in text]


@pytest.mark.slow
def test_the_same_tables_make_the_same_report_and_others_are_noticed(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(made / "results", tmp_path / "results")
    shutil.copy(made / "RESULTS.md", tmp_path / "RESULTS.md")
    before = (tmp_path / "results/report.html").read_bytes()
    assert cli.main(["report", "--check"]) == 0
    assert cli.main(["report"]) == 0
    assert (tmp_path / "results/report.html").read_bytes() == before
    assert (tmp_path / "RESULTS.md").read_text() == (made / "RESULTS.md").read_text()
    runs = tmp_path / "results/runs.csv"
    runs.write_text(runs.read_text().replace(",96.2", ",97.2"))
    assert cli.main(["report", "--check"]) == 1
    assert "RESULTS.md is not what results says now; update it with: python -m repro report" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("runs.csv", ",2026-01-01T00", ",2026-01-02T00"),
        ("measurements.csv", ",kl_of_dimension,,0.0,2.0,", ",kl_of_dimension,,0.0,2.1,"),
    ],
)
def test_a_change_of_what_only_the_page_shows_is_noticed(
    made: Path, tmp_path: Path, name: str, before: str, after: str
) -> None:
    shutil.copytree(made / "results", tmp_path / "results")
    shutil.copy(made / "RESULTS.md", tmp_path / "RESULTS.md")
    path = tmp_path / "results" / name
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    assert cli.main(["report", "--check"]) == 1


def test_a_caption_of_a_folded_table_is_in_the_checksum() -> None:
    frame, table = pd.DataFrame({"a": [1.0], "b": ["x"]}), document.Table
    folded = [
        table("t", frame, "One."), table("t", frame, "Two."), table("t", frame + frame, "One."), "One.",
        document.Figure("f", "alt", "One.", b"1"), document.Figure("f", "alt", "One.", b"2"),
    ]  # fmt: skip
    pages = [document.Page("A report", "", [], [document.Section("First", "first", [], [part])]) for part in folded]
    assert len({page.checksum for page in pages}) == len(pages)
    texts = [document.markdown(page, "figures", "code").splitlines() for page in pages]
    assert len({lines[-1] for lines in texts}) == len(pages)
    assert all(lines[:-1] == texts[0][:-1] for lines in texts), "nothing else in Markdown shows what is folded"


def test_results_md_is_short_and_its_contents_lead_to_its_headings(made: Path) -> None:
    for text in ((made / "RESULTS.md").read_text(), (ROOT / "RESULTS.md").read_text(encoding="utf-8")):
        assert len(text.splitlines()) <= 200
        headings = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
        links = re.findall(r"^- \[(.+)\]\(#(.+)\)$", text, flags=re.MULTILINE)
        assert links == [(heading, heading.lower().replace(" ", "-")) for heading in headings]


def test_the_results_lead_to_the_code_of_their_experiments() -> None:
    text = (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    links = re.findall(r"^\| \[(\w+)\]\((\S+)\) \|", text, flags=re.MULTILINE)
    assert links == [(name, f"experiments/{name}.py") for name in NOTEBOOK]
    assert all((ROOT / path).is_file() for _, path in links)


def test_a_map_names_the_classes_of_photographs() -> None:
    rows = [
        {"quantity": f"latent_{name}_{axis}", "group": str(index % 2), "x": index, "value": float(index)}
        for name in ("pca", "tsne")
        for axis in (1, 2)
        for index in range(6)
    ]
    for classes, shown in ((names.CLASSES["cifar10"], {"airplane", "automobile"}), ((), {"0", "1"})):
        for figure in plots.latent_map(pd.DataFrame(rows), classes):
            assert {text.get_text() for text in figure.axes[0].texts} == shown


def test_tables_of_other_machines_stay(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "results", tmp_path / "results")
    ours = synthetic.run("mnist_fc", 7, 96.3)
    assert cli.main(["report", "--update"]) == 0
    lines = (tmp_path / "results/runs.csv").read_text()
    assert ours in lines
    assert lines.count("\nmnist_fc,") == 13
    assert "outside the plan: seeds 7" in (tmp_path / "results/report.html").read_text()


def test_runs_are_given_notes_with_the_verdict(made: Path) -> None:
    store = client(made)
    experiment = store.get_experiment_by_name("mnist_fc")
    assert experiment is not None
    for run in store.search_runs([experiment.experiment_id]):
        assert "**mnist_fc, epoch 100: reproduced.**" in run.data.tags["mlflow.note.content"]
        assert run.data.tags["repro.verdict"] == "reproduced"


def test_plots_are_logged_to_the_runs_that_they_show(made: Path) -> None:
    store = client(made)
    experiment = store.get_experiment_by_name("mnist_fc")
    assert experiment is not None
    logged = {}
    for run in store.search_runs([experiment.experiment_id]):
        logged[run.data.params["seed"]] = {
            Path(item.path).name for item in store.list_artifacts(run.info.run_id, "plots")
        }
    curves = {"curves_mnist_fc_10.png", "curves_mnist_fc_100.png"}
    assert logged["101"] == logged["102"] == curves
    assert logged["100"] == curves | {"kl_by_dimension_mnist_fc.png", "latent_map_mnist_fc.png"}


FAULTS = [
    ("runs.csv", "nonsense\n", "has no column experiment"),
    ("runs.csv", None, "cannot be read"),
    (
        "curves.csv",
        "experiment,seed,run_id,epoch,cost,reconstruction,kl,heldout_neg_elbo\na,0,b,one,2,3,4,5\n",
        "epoch",
    ),
    ("measurements.csv", "\x00", "measurements.csv"),
]


@pytest.mark.parametrize(("name", "text", "told"), FAULTS)
def test_a_damaged_table_is_one_sentence(
    made: Path, tmp_path: Path, name: str, text: str | None, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(made / "results", tmp_path / "results")
    (tmp_path / "results" / name).unlink()
    if text is not None:
        (tmp_path / "results" / name).write_text(text)
    assert cli.main(["report"]) == 1
    error = capsys.readouterr().err
    assert told in error
    assert len(error.splitlines()) == 1


def test_what_cannot_be_read_is_told_and_the_rest_is_made(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(made / "mlruns", tmp_path / "mlruns")
    for path in (tmp_path / "mlruns/artifacts").rglob("evaluation.csv"):
        path.write_text("not a table")
    assert cli.main(["report", "--update"]) == 0
    assert "measurement evaluation of run" in capsys.readouterr().err
    assert "reproduced" in (tmp_path / "RESULTS.md").read_text()


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / "results" / "runs.csv").exists(), reason="no results are committed")
def test_the_committed_report_is_what_its_tables_say() -> None:
    assert cli.main(["report", "--check", "--results", str(ROOT / "results")]) == 0


def test_the_readme_has_the_verdicts_of_the_committed_results() -> None:
    readme, results = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "RESULTS.md"))
    start = results.index("| experiment | epoch | verdict")
    rows = [re.split(r" *\| *", line)[1:-1] for line in results[start : results.index("\n\n", start)].splitlines()[2:]]
    assert len(rows) >= 5
    for name, epoch, verdict, reported, mean, deviation, difference, margin, *_ in rows:
        found = re.search(rf"^\| {name}, epoch {epoch} \| (.+) \|$", readme, re.MULTILINE)
        assert found is not None, name
        assert found[1].split(" | ") == [
            verdict,
            reported,
            "-" if mean == "-" else f"{mean} ± {deviation}",
            f"{difference if difference.startswith('-') else f'+{difference}'} ({margin})",
        ]


@pytest.mark.slow
def test_a_readme_with_marks_is_given_the_verdicts(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "results", tmp_path / "results")
    readme = tmp_path / "README.md"
    text = "\n".join(["# Mine", MARKS[0], "old", MARKS[1], "the end", ""])
    readme.write_text(text)
    command = ["--results", str(tmp_path / "results")]
    assert cli.main(["report", *command]) == 0
    written = readme.read_text()
    assert "| mnist_fc, epoch 100 | reproduced | 96.21 |" in written
    assert written.partition(MARKS[0])[0] == "# Mine\n"
    assert written.partition(MARKS[1])[2] == "\nthe end\n"
    assert cli.main(["report", "--check", *command]) == 0
    readme.write_text(written.replace("reproduced", "different"))
    assert cli.main(["report", "--check", *command]) == 1


@pytest.mark.slow
def test_another_readme_is_left_alone(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "results", tmp_path / "results")
    (tmp_path / "README.md").write_text("# Mine\n")
    command = ["--results", str(tmp_path / "results")]
    assert cli.main(["report", *command]) == cli.main(["report", "--check", *command]) == 0
    assert (tmp_path / "README.md").read_text() == "# Mine\n"
