"""The reference generators: Markdown pieces, the command tree, stale pages."""

import enum
from pathlib import Path
from typing import Annotated

import pytest
import typer

from hyperbox._dev.reference.__main__ import main
from hyperbox._dev.reference.commands import Command, Parameter, commands
from hyperbox._dev.reference.generate import FILES, stale, write
from hyperbox._dev.reference.markdown import NOTICE, anchor, code, facts, member_docs, prose, table
from hyperbox._dev.reference.operations import example, type_name
from hyperbox._dev.reference.python_pages import modules
from hyperbox.api.errors import ExitCode
from hyperbox.api.operations import IMAGE_INSPECT, STORE_GC, VERSION


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


def _application() -> typer.Typer:
    app = typer.Typer(help="The whole.")
    group = typer.Typer(help="A group.")

    @app.callback()
    def options(debug: Annotated[bool, typer.Option("--debug", help="Say more.")] = False) -> None:
        """Options of all."""

    @group.command("do-it")
    def do(
        names: Annotated[list[str], typer.Argument(help="Whose.", metavar="name")],
        colour: Annotated[Colour, typer.Option("--colour", "-c", envvar="COLOUR")] = Colour.RED,
        limit: Annotated[int | None, typer.Option(min=1, max=1000, help="How many.")] = None,
        wait: bool = True,
    ) -> None:
        """Do it.

        At length.
        """

    @group.command(hidden=True)
    def secret() -> None:
        """Not for readers."""

    app.add_typer(group, name="group")
    return app


def test_the_command_tree_is_read_from_declarations() -> None:
    whole, group, do = commands(_application(), ("program",))
    assert whole == Command(
        ("program",), "The whole.", (Parameter(("--debug",), True, "", "", False, False, "Say more.", ""),), True
    )
    assert (group.name, group.help, group.group) == ("program group", "A group.", True)
    assert (do.name, do.summary) == ("program group do-it", "Do it.")
    assert do.parameters == (
        Parameter(("NAME",), False, "text", "", True, True, "Whose.", ""),
        Parameter(("--colour", "-c"), True, "`red` or `blue`", "red", False, False, "", "COLOUR"),
        Parameter(("--limit",), True, "integer, at least 1, at most 1,000", "", False, False, "How many.", ""),
        Parameter(("--wait", "--no-wait"), True, "", "on", False, False, "", ""),
    )


def test_an_application_of_one_command_has_no_subcommands() -> None:
    app = typer.Typer()

    @app.command()
    def only(path: Annotated[Path, typer.Option(help="Where.")] = Path("/x")) -> None:
        """Only this."""

    (command,) = commands(app, ("only",))
    assert (command.path, command.help, command.group) == (("only",), "Only this.", False)
    assert command.parameters[0].default == "/x"


def test_prose_is_neither_html_nor_a_reference() -> None:
    assert prose("a <b> `<c>[d]` [e](f.md) [g][h]") == "a &lt;b> `<c>[d]` [e](f.md) \\[g]\\[h]"


def test_tables_keep_their_columns() -> None:
    assert table(("A", "B"), [("x | y", 1)]) == "| A | B |\n| --- | --- |\n| x \\| y | 1 |"
    assert table(("A",), []) == ""


def test_small_pieces() -> None:
    assert code("a`b`") == "`` a`b` ``"
    assert code("") == ""
    assert facts([("A", "x"), ("B", "")]) == "- **A:** x"
    assert anchor("HB-STORE-001") == "hb-store-001"
    assert anchor("hyperbox", "store verify") == "hyperbox-store-verify"
    assert member_docs(ExitCode)["CONFIG"].startswith("A configuration file")


def test_types_read_as_in_json() -> None:
    assert type_name(list[str] | None) == "list of string or null"
    assert type_name(dict[str, int | str]) == "object of integer or string"


def test_examples_are_console_blocks_with_a_daemon() -> None:
    assert example(VERSION).splitlines() == [
        '```console needs="daemon"',
        '$ curl --silent --fail-with-body --unix-socket "$HYPERBOX_SOCKET" \\',
        ">   http://hyperbox/v1/version",
        "...",
        "```",
    ]
    assert "'http://hyperbox/v1/images/inspect?image=localhost%3A5000/app%3A1'" in example(IMAGE_INSPECT)
    assert "--json '{}'" in example(STORE_GC)


def test_written_pages_are_not_stale_and_changed_ones_are(tmp_path: Path) -> None:
    assert write(tmp_path) == list(FILES)
    assert write(tmp_path) == []
    assert stale(tmp_path) == {}
    (tmp_path / "events.md").write_text("other\n")
    (tmp_path / "gone.md").write_text(f"{NOTICE}title: Gone\n---\n")
    (tmp_path / "index.md").write_text("# By hand\n")
    differences = stale(tmp_path)
    assert list(differences) == ["events.md", "gone.md"]
    assert "-other" in differences["events.md"]


def test_the_command_writes_and_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", "--folder", str(tmp_path)]) == 1
    assert "cli.md is stale" in capsys.readouterr().err
    assert main(["--folder", str(tmp_path)]) == 0
    assert main(["--check", "--folder", str(tmp_path)]) == 0


def test_public_modules_are_found_without_importing_them() -> None:
    found = dict(modules(("hyperbox.api", "hyperbox.no_such_module")))
    assert {"hyperbox.api", "hyperbox.api.settings", "hyperbox.api.errors.base"} <= set(found)
    assert all(found.values())
