"""The documentation names commands, options and messages that the program has."""

import re

import pytest
import typer
from support.process import ROOT

from repro import cli

MAIN = typer.main.get_command(cli.app)
PAGES = [ROOT / "README.md", ROOT / "SKILL.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = {path.name: path.read_text(encoding="utf-8") for path in PAGES}
MESSAGES = re.findall(r"^## (`.*)$", TEXT["troubleshooting.md"], re.MULTILINE)
SOURCE = "".join(
    path.read_text(encoding="utf-8") for folder in ("repro", "analysis") for path in (ROOT / folder).rglob("*.py")
)


def commands_of(text: str) -> list[list[str]]:
    """Return the words after `python -m repro` in a text, and those of its code that is a command with options."""
    joined = text.replace("\\\n", " ")
    found = re.findall(r"python -m repro ([a-z][^`#\n]*)", joined)
    found += re.findall(rf"`((?:{'|'.join(MAIN.commands)}) [^`\n]*--[^`\n]*)`", joined)
    return [line.split() for line in found]


def options_of(words: list[str]) -> set[str]:
    """Return the options of the command that a line names; a study is searched if no other command of it is named."""
    command = MAIN.commands[words[0]]
    if hasattr(command, "commands"):
        command = command.commands.get(words[1], command.commands["run"])
    return {name for each in command.params for name in each.opts} | {"--help"}


@pytest.mark.parametrize("page", TEXT)
def test_commands_in_the_documentation_exist_with_their_options(page: str) -> None:
    for words in commands_of(TEXT[page]):
        given = {word for word in words if re.fullmatch("--?[a-z][a-z-]*", word)}
        assert given <= options_of(words), " ".join(words)


def test_the_documentation_shows_many_commands() -> None:
    assert sum(len(commands_of(text)) for text in TEXT.values()) > 100
    assert len(MESSAGES) == 10


@pytest.mark.parametrize("heading", MESSAGES)
def test_the_program_has_each_message_of_the_troubleshooting_page(heading: str) -> None:
    for message in re.findall("`([^`]+)`", heading):
        parts = [part.strip(" :;") for part in re.split(r"…|'[^']*'|\?|\d+|/mlruns|python -m repro sync", message)]
        assert any(len(part) > 5 for part in parts)
        for part in parts:
            assert part in SOURCE
