"""The program's name and help."""

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
