"""`python -m hyperbox._dev.lab`: set the lab up, build images, run an engine by hand, clear up."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import sys

from . import RELEASES, STABLE, Engine, Hyperboxd, LabError, LabHome, Registry, Run, SlowProxy, live_runs, say
from .home import remove_tree
from .images import ALL_IMAGES, CI_IMAGES, DEMO_IMAGES, Images
from .packages import toolbox
from .runs import signals_raise, sweep

_FREE_BYTES = 4 << 30


def _setup(home: LabHome, args: argparse.Namespace) -> None:
    free = shutil.disk_usage(home.root).free
    if free < _FREE_BYTES:
        say(f"only {free >> 20} MiB are free in {home.root}; set HYPERBOX_LAB to a folder on a larger disk")
    for name in {STABLE.name, *args.release}:
        toolbox(home, RELEASES[name])
    wanted = ALL_IMAGES if args.all else CI_IMAGES if args.for_tests else DEMO_IMAGES if args.for_demo else ()
    Images(home).ensure(wanted)
    say(f"ready in {home.root}")


def _images(home: LabHome, args: argparse.Namespace) -> None:
    names = args.names or ALL_IMAGES
    for image in Images(home).ensure(names, args.variant):
        sizes = " + ".join(f"{layer.size / 1e6:.1f}" for layer in image.layers)
        print(f"{image.key:24} {image.compressed_size / 1e6:7.1f} MB = {sizes}")


def _up(home: LabHome, args: argparse.Namespace) -> None:
    images = Images(home).ensure(args.names or DEMO_IMAGES)
    with Run(home) as run:
        registry = Registry(run)
        distant = None
        if args.round_trip or args.mbit:
            bits = args.mbit * 1e6 or 10e9
            distant = SlowProxy(run, registry, round_trip=args.round_trip / 1000, bits_per_second=bits)
        snapshotter = Hyperboxd(run).snapshotter if args.hyperbox else None
        engine = Engine(run, snapshotter=snapshotter, release=RELEASES[args.release])
        for name in ("PATH", "DOCKER_HOST", "DOCKER_CONFIG", "CONTAINERD_ADDRESS"):
            print(f"export {name}={shlex.quote(engine.environment[name])}")
        for image in images:
            image.push(registry)
            print(f"# docker pull {(distant or registry).reference(image.name, image.tag)}")
        print("# containers need --network host, and -e PORT=… for services", flush=True)
        say("running until Ctrl-C")
        signal.pause()


def _clean(home: LabHome, args: argparse.Namespace) -> None:
    sweep(home)
    if not args.all:
        say(f"deleted {Images(home).prune() / 1e6:.0f} MB of layers that no image uses any more")
        return
    runs = live_runs(home)
    if runs:
        raise LabError(f"in use by runs {', '.join(runs)}; end them first")
    remove_tree(home.root)
    say(f"deleted {home.root}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hyperbox._dev.lab", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    setup = commands.add_parser("setup", help="fetch the programs, and build images if asked to")
    setup.add_argument("--for-tests", action="store_true", help=f"build {', '.join(CI_IMAGES)}")
    setup.add_argument("--for-demo", action="store_true", help=f"build {', '.join(DEMO_IMAGES)}")
    setup.add_argument("--all", action="store_true", help="build all images")
    setup.add_argument("--release", action="append", choices=sorted(RELEASES), default=[], help="one more engine")
    setup.set_defaults(call=_setup)
    images = commands.add_parser("images", help="build images and print their sizes")
    images.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ALL_IMAGES)}; all without one")
    images.add_argument("--variant", choices=("gzip", "zstd", "plain"), default="gzip")
    images.set_defaults(call=_images)
    up = commands.add_parser("up", help="run a registry and an engine until Ctrl-C; prints the variables to use it")
    up.add_argument("names", nargs="*", metavar="IMAGE", help="images to put into the registry")
    up.add_argument("--hyperbox", action="store_true", help="with hyperboxd as Docker's storage driver")
    up.add_argument("--release", choices=sorted(RELEASES), default=STABLE.name)
    up.add_argument("--round-trip", type=float, default=0, metavar="MS", help="distance of the registry")
    up.add_argument("--mbit", type=float, default=0, metavar="MBIT/S", help="bandwidth to the registry")
    up.set_defaults(call=_up)
    clean = commands.add_parser("clean", help="end runs whose owner is gone, delete layers that are out of date")
    clean.add_argument("--all", action="store_true", help="and delete the lab's folder with all it has downloaded")
    clean.set_defaults(call=_clean)
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    args = _parser().parse_args(argv)
    if os.geteuid() != 0:
        say("the lab mounts file systems and starts container engines: run it as root")
        return 7
    home = LabHome()
    try:
        with signals_raise():
            sweep(home)
            args.call(home, args)
    except LabError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
