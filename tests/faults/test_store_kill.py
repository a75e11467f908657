"""SIGKILL at random points of puts, layer commits, snapshot changes and collections; then everything told stays.

Run as a program, this file is the launcher: it has HyperBox imported already and forks a victim for each line on its
standard input, so that thirty deaths take seconds.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

from hyperbox.store import Store

DEATHS = 30


def victim(state: Path, seed: int) -> None:
    """Work until killed, telling each finished change: `+key` made, `?key` about to go, `-key` gone."""
    dice = random.Random(seed)
    store = Store.open(state)
    os.write(1, b"ready %d\n" % os.getpid())
    threads = [
        threading.Thread(target=_work, args=(store, random.Random(dice.random()), f"{seed}.{n}")) for n in (1, 2)
    ]
    for thread in threads:
        thread.start()
    while True:
        store.gc(grace=0)


def _work(store: Store, dice: random.Random, name: str) -> None:
    mine: list[str] = []
    for turn in range(1 << 30):
        with store.objects.lease(name) as lease:
            objects = {}
            for _ in range(dice.randrange(1, 6)):
                content = b"%d" % dice.randrange(30) * dice.randrange(400, 500)
                objects[lease.put(content)] = len(content)
            with lease.writer() as writer:
                writer.write(dice.randbytes(30_000))
                writer.zeros(9000)
                digest, size = writer.commit()
                objects[digest] = size
            image = dice.randbytes(5000)
            record = store.layers.add(image, objects, entries=1, size=1, source="test", diff_id=f"sha256:{name}.{turn}")
            if store.layers.hold(lease, record.layer_id) is None:
                continue
            key = f"{name}.{turn}"
            with store.catalogue.transaction():
                store.catalogue.snapshots.insert(f"active {key}", kind="active")
                store.catalogue.snapshots.rename(f"active {key}", key, kind="committed", layer_id=record.layer_id)
        os.write(1, f"+{key}\n".encode())
        mine.append(key)
        if len(mine) > 2:
            key = mine.pop(dice.randrange(len(mine)))
            os.write(1, f"?{key}\n".encode())
            store.catalogue.snapshots.delete(key)
            os.write(1, f"-{key}\n".encode())


def launcher(state: Path) -> None:
    """Fork a victim for each seed on standard input, and say when it is dead."""
    while line := sys.stdin.readline():
        pid = os.fork()
        if pid == 0:
            victim(state, int(line))
        os.waitpid(pid, 0)
        os.write(1, b"dead\n")


def test_what_was_told_survives_thirty_sigkills(tmp_path: Path) -> None:
    state = tmp_path / "state"
    sure: set[str] = set()
    maybe: set[str] = set()
    dice = random.Random(7)
    reasons = set()
    command = [sys.executable, __file__, str(state)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for death in range(DEATHS):
            print(death, file=process.stdin)
            timer = None
            for line in process.stdout:
                word = line.rstrip("\n")
                if word == "dead":
                    break
                if word.startswith("ready "):
                    timer = threading.Timer(dice.uniform(0.0, 0.12), os.kill, (int(word[6:]), signal.SIGKILL))
                    timer.start()
                elif word[0] == "+":
                    sure.add(word[1:])
                elif word[0] == "?":
                    sure.discard(word[1:])
                    maybe.add(word[1:])
                else:
                    maybe.discard(word[1:])
            assert timer is not None, "the victim died before it was ready"
            timer.join()
            # Every other time as if the machine had gone down too, which hashes what is young.
            with Store.open(state, boot_id=f"boot {death}" if death % 2 else None) as store:
                reasons.add(store.recovered.reason)
                assert store.recovered.clean, store.recovered
                assert os.listdir(store.objects.ingest) == []
                found = store.verify()
                assert found.ok, found
                rows = store.catalogue.snapshots.list()
                keys = {row.key for row in rows}
                assert sure <= keys
                # A change can be committed and its word not out yet: one in each of the two threads and rounds.
                assert {row.kind for row in rows} <= {"committed"}
                assert all(row.layer_id and store.layers.find(row.layer_id) for row in rows)
                assert not (maybe & sure)
        process.stdin.close()
        assert process.wait(30) == 0
    assert reasons == {"process death", "power loss"}
    assert len(sure) > DEATHS


if __name__ == "__main__":
    launcher(Path(sys.argv[1]))
