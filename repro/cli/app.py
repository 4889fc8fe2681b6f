"""The program's name and help, and the options that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="python -m repro",
    help="Rerun published variational-autoencoder results, track every run, see whether the numbers are reproduced.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A registered experiment (see `list`), or the path of your own file.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DataDir = Annotated[
    Path | None, typer.Option(help="The directory that holds the data; also read from REPRO_DATA_DIR.", metavar="DIR")
]
SummaryFile = Annotated[Path | None, typer.Option(help="Write what came of it as JSON.", metavar="FILE")]
RunId = Annotated[str, typer.Argument(metavar="RUN_ID", help="A run's id, or its beginning.")]
