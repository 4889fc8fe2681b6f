"""The command line's name and its help."""

import typer

app = typer.Typer(
    name="python -m repro",
    help="Rerun published results of variational autoencoders, track every run, and decide which are reproduced.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
