"""`hyperbox layer`: the layers in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hyperbox.cli.state import Format, FormatOption, call, print_pairs, print_table, short, show, size

if TYPE_CHECKING:
    from hyperbox.api.messages import LayerDetail

app = typer.Typer(help="Layers in the store.", no_args_is_help=True, rich_markup_mode=None)


@app.command("ls")
def ls(form: FormatOption = Format.TABLE) -> None:
    """List the layers in the store."""
    from hyperbox.api.operations import LAYER_LS

    answer = call(LAYER_LS)
    rows = [
        (short(x.layer), short(x.diff_id), x.source, x.entries, size(x.size), size(x.metadata_bytes), x.snapshots)
        for x in answer.layers
    ]
    columns = ("layer", "diff ID", "source", "#entries", "#size", "#metadata", "#snapshots")
    show(answer, form, lambda: print_table(columns, rows, empty="no layers"))


@app.command()
def inspect(
    layer: Annotated[str, typer.Argument(help="Identity, diff ID, or enough of either.")],
    files: Annotated[bool, typer.Option("--files", help="List what is in the layer.")] = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Show one layer, where it is used and, with --files, what is in it."""
    from hyperbox.api.messages import LayerRequest
    from hyperbox.api.operations import LAYER_INSPECT

    answer = call(LAYER_INSPECT, LayerRequest(layer=layer, files=files))
    show(answer, form, lambda: _print_layer(answer))


def _print_layer(answer: LayerDetail) -> None:
    print_pairs(
        [
            ("layer", answer.layer),
            ("diff ID", answer.diff_id),
            ("blob", answer.blob_digest),
            ("image", answer.image),
            ("source", answer.source),
            ("created", answer.created.isoformat(sep=" ", timespec="seconds")),
            ("entries", answer.entries),
            ("size", size(answer.size)),
            ("unique", size(answer.unique)),
            ("metadata", size(answer.metadata_bytes)),
            ("mounted at", answer.mount),
            ("used by", "\n         ".join(answer.used_by)),
        ]
    )
    if answer.files:
        typer.echo("")
        rows = [(f.mode, f"{f.uid}:{f.gid}", f.size, f.kind, f.path, short(f.object)) for f in answer.files]
        print_table(("mode", "owner", "#size", "kind", "path", "object"), rows, empty="")
