"""`hyperbox image`: what images HyperBox serves and how their layers came here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hyperbox.cli.state import Format, FormatOption, call, print_pairs, print_table, short, show, size

if TYPE_CHECKING:
    from hyperbox.api.messages import ImageDetail, ImageList

app = typer.Typer(help="Images that HyperBox serves.", no_args_is_help=True, rich_markup_mode=None)

Image = Annotated[str, typer.Argument(help="Reference or manifest digest.")]


@app.command("ls")
def ls(form: FormatOption = Format.TABLE) -> None:
    """List the images on this node, with how many of their layers are shared objects."""
    from hyperbox.api.operations import IMAGE_LS

    answer = call(IMAGE_LS)
    show(answer, form, lambda: _print_images(answer))


def _print_images(answer: ImageList) -> None:
    rows = [
        (i.image, short(i.manifest_digest), f"{i.composed}/{i.layers}", size(i.size), size(i.unique))
        for i in answer.images
    ]
    print_table(("image", "manifest", "#composed", "#size", "#unique"), rows, empty="no images")


@app.command()
def inspect(image: Image, form: FormatOption = Format.TABLE) -> None:
    """Show one image, layer by layer."""
    from hyperbox.api.messages import ImageRequest
    from hyperbox.api.operations import IMAGE_INSPECT

    answer = call(IMAGE_INSPECT, ImageRequest(image=image))
    show(answer, form, lambda: _print_detail(answer))


def _head(answer: ImageDetail) -> None:
    print_pairs(
        [
            ("image", answer.image),
            ("manifest", answer.manifest_digest),
            ("platform", answer.platform),
            ("size", size(answer.size)),
            ("unique", size(answer.unique)),
        ]
    )
    typer.echo("")


def _print_detail(answer: ImageDetail) -> None:
    _head(answer)
    rows = [
        (x.index, short(x.digest), short(x.diff_id), x.form, x.source, size(x.size), short(x.layer))
        for x in answer.layers
    ]
    print_table(("#", "blob", "diff ID", "form", "source", "#size", "layer"), rows, empty="no layers")


@app.command()
def explain(image: Image, form: FormatOption = Format.TABLE) -> None:
    """Say how each layer of an image came here, and why not another way."""
    from hyperbox.api.messages import ImageRequest
    from hyperbox.api.operations import IMAGE_EXPLAIN

    answer = call(IMAGE_EXPLAIN, ImageRequest(image=image))
    show(answer, form, lambda: _print_explanation(answer))


def _print_explanation(answer: ImageDetail) -> None:
    _head(answer)
    rows = [
        (
            x.index,
            x.form,
            x.source,
            size(x.bytes_fetched),
            size(x.bytes_deduped),
            f"{x.seconds:.2f} s",
            x.reason or "provided by HyperBox",
        )
        for x in answer.layers
    ]
    print_table(("#", "form", "source", "#fetched", "#here before", "#took", "why"), rows, empty="no layers")


@app.command()
def pull(image: Annotated[str, typer.Argument(help="Reference.")], form: FormatOption = Format.TABLE) -> None:
    """Fetch an image's layers ahead of the engine, whose own pull then finds them here.

    They are kept for a day, or until the engine has them.
    """
    from hyperbox.api.messages import PullRequest
    from hyperbox.api.operations import IMAGE_PULL

    answer = call(IMAGE_PULL, PullRequest(image=image))
    show(answer, form, lambda: _print_explanation(answer))
