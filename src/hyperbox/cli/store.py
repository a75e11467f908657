"""`hyperbox store`: statistics, verification and collection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hyperbox.api.errors.base import ExitCode
from hyperbox.cli.state import Format, FormatOption, call, print_pairs, print_table, short, show, size

if TYPE_CHECKING:
    from hyperbox.api.messages import GcResult, StoreStats, VerifyResult

app = typer.Typer(help="The store of shared objects and layers.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def stats(form: FormatOption = Format.TABLE) -> None:
    """Show what the store holds and what sharing saves."""
    from hyperbox.api.operations import STORE_STATS

    answer = call(STORE_STATS)
    show(answer, form, lambda: _print_stats(answer))


def _print_stats(answer: StoreStats) -> None:
    print_pairs(
        [
            ("objects", answer.objects),
            ("their bytes", size(answer.object_bytes)),
            ("on the disk", size(answer.allocated_bytes)),
            ("layers", answer.layers),
            ("layer metadata", size(answer.metadata_bytes)),
            ("without sharing", size(answer.referenced_bytes)),
            ("saved", size(answer.saved_bytes)),
            ("sharing", f"{answer.sharing:.2f}"),
            ("quarantined", answer.quarantined or ""),
            ("free", size(answer.free_bytes)),
        ]
    )


@app.command()
def verify(
    repair: Annotated[bool, typer.Option("--repair", help="Fetch damaged layers again from their registry.")] = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Hash everything again. Exit status 11 when damage is left; damaged objects are moved aside."""
    from hyperbox.api.messages import VerifyRequest
    from hyperbox.api.operations import STORE_VERIFY

    answer = call(STORE_VERIFY, VerifyRequest(repair=repair))
    show(answer, form, lambda: _print_verify(answer))
    if any(not damage.repaired for damage in answer.damage):
        raise typer.Exit(ExitCode.FINDINGS)


def _print_verify(answer: VerifyResult) -> None:
    typer.echo(
        f"{answer.objects} objects and {answer.layers} layers, {size(answer.bytes)}, hashed in {answer.seconds:.1f} s"
    )
    if answer.unreferenced:
        typer.echo(f"{answer.unreferenced} objects are not used by any layer; the next collection takes them")
    rows = [(d.kind, short(d.name), "repaired" if d.repaired else "LEFT", d.detail) for d in answer.damage]
    print_table(("damage", "what", "state", "particulars"), rows, empty="all is well")


@app.command()
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, take nothing.")] = False,
    grace: Annotated[
        float | None, typer.Option(min=0, help="Seconds that an unreferenced layer stays.", show_default=False)
    ] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Collect layers and objects that nothing refers to."""
    from hyperbox.api.messages import GcRequest
    from hyperbox.api.operations import STORE_GC

    answer = call(STORE_GC, GcRequest(dry_run=dry_run, grace_seconds=grace))
    show(answer, form, lambda: _print_gc(answer))


def _print_gc(answer: GcResult) -> None:
    rows = [(short(i.name), size(i.bytes), i.reason) for i in answer.layers]
    print_table(("layer", "#bytes", "why"), rows, empty="no layer to collect")
    verb = "would be" if answer.dry_run else "were"
    typer.echo(f"{answer.objects} objects {verb} collected, {size(answer.bytes)}")
