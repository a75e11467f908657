"""A process to be killed: makes, commits, compacts and removes snapshots without end, and says what is done.

Run as `python snapshotter_victim.py ROOT SEED`. Each line on standard output is a fact: `+ name parent seed` for a
committed snapshot, `- name` before one is removed, `* name` after.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from hyperbox.linux import MountFlag, mount
from hyperbox.linux import umount as unmount
from hyperbox.snapshotter import Mount, Snapshotter
from hyperbox.store import Store


def content(seed: int, number: int) -> bytes:
    """What file `number` of layer `seed` holds; the even ones are the same in all layers."""
    return (b"%d " % (number if number % 2 == 0 else seed * 100 + number)) * (50 if number < 3 else 3000)


def fill(root: Path, seed: int) -> None:
    for number in range(6):
        (root / f"{seed}-{number}").write_bytes(content(seed, number))


def attach(one: Mount, target: Path) -> None:
    if one.type == "bind":
        mount(one.source, target, None, MountFlag.BIND)
    else:
        mount(one.source, target, one.type, 0, ",".join(one.options))


def main(root: Path, seed: int) -> None:
    # Own folders for mounting: the kill leaves the mount to the test, which detaches it.
    point = root / "victim"
    point.mkdir(exist_ok=True)
    draw = random.Random(seed)
    store = Store.open(root / "state")
    snapshotter = Snapshotter(store, root / "run", compaction_minimum=0)
    print("ready", flush=True)
    while True:
        seed += 1
        known = [s.name for s in snapshotter.walk(["kind==committed"])]
        parent = draw.choice(["", *known[-3:]])
        one = snapshotter.prepare(f"key-{seed}", parent)[0]
        attach(one, point)
        fill(point, seed)
        unmount(point)
        snapshotter.commit(f"layer-{seed}", f"key-{seed}", {"seed": str(seed)})
        print(f"+ layer-{seed} {parent or '-'} {seed}", flush=True)
        if draw.random() < 0.3:
            snapshotter.keeping.sweep()
        leaves = [name for name in known if not snapshotter.walk([f"parent=={name}"])]
        if leaves and draw.random() < 0.4:
            name = draw.choice(leaves)
            print(f"- {name}", flush=True)
            snapshotter.remove(name)
            print(f"* {name}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
