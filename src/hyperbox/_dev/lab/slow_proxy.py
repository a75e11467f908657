"""A TCP proxy that behaves like a link of given round-trip time and bandwidth.

The model: a one-way delay of half a round trip for every chunk in either direction, so a request and its answer cost
one round trip, however many requests follow each other on a connection; one more for the TCP handshake, before the
first byte of a connection is passed on; and one bucket of bandwidth per direction that all connections share, in the
order in which their bytes arrive. Chunks in flight overlap: delay does not limit throughput. At most `WINDOW` bytes
per connection are under way, as in TCP with a window of that size, so a slow reader does stop the sender.

Not modelled: TCP slow start, loss, TLS. Timers have about 1 ms of error per chunk, which does not add up: the bucket
keeps absolute time.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib

CHUNK = 64 * 1024
WINDOW = 4 * 1024 * 1024


class Link:
    """One direction of the link: when a number of bytes has passed it. Times in seconds of the loop's clock."""

    def __init__(self, bytes_per_second: float, delay: float) -> None:
        self.bytes_per_second = bytes_per_second
        self.delay = delay
        self.free_at = 0.0

    def arrival(self, now: float, size: int) -> float:
        """When `size` bytes handed in now are at the other end."""
        self.free_at = max(self.free_at, now) + size / self.bytes_per_second
        return self.free_at + self.delay


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: Link) -> None:
    """Pass bytes one way until the sender ends."""
    loop = asyncio.get_running_loop()
    under_way: collections.deque[tuple[float, bytes]] = collections.deque()
    changed = asyncio.Event()
    room = asyncio.Event()
    room.set()
    held = 0

    async def deliver() -> None:
        nonlocal held
        while True:
            while not under_way:
                changed.clear()
                await changed.wait()
            due, data = under_way.popleft()
            await asyncio.sleep(max(0.0, due - loop.time()))
            if not data:
                with contextlib.suppress(OSError):
                    writer.write_eof()
                return
            writer.write(data)
            await writer.drain()
            held -= len(data)
            if held < WINDOW:
                room.set()

    delivery = asyncio.ensure_future(deliver())
    try:
        while True:
            await room.wait()
            data = await reader.read(CHUNK)
            under_way.append((link.arrival(loop.time(), len(data)), data))
            held += len(data)
            if held >= WINDOW:
                room.clear()
            changed.set()
            if not data:
                break
        await delivery
    finally:
        delivery.cancel()


async def serve(port: int, target: int, round_trip: float, bits_per_second: float) -> None:
    """Accept connections on loopback `port` and carry them to `target`, for ever."""
    up = Link(bits_per_second / 8, round_trip / 2)
    down = Link(bits_per_second / 8, round_trip / 2)

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back: asyncio.StreamWriter | None = None
        try:
            await asyncio.sleep(round_trip)  # the handshake of a real distance
            there, back = await asyncio.open_connection("127.0.0.1", target, limit=CHUNK)
            async with asyncio.TaskGroup() as both:
                both.create_task(_carry(reader, back, up))
                both.create_task(_carry(there, writer, down))
        except* OSError:
            pass  # one side went away: the other learns it by the close below
        finally:
            for end in (writer, back):
                if end is not None:
                    end.close()

    server = await asyncio.start_server(connection, "127.0.0.1", port, limit=CHUNK, backlog=256)
    async with server:
        await server.serve_forever()


def main() -> None:
    """Command line of the proxy's process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", type=int, required=True, help="port on loopback")
    parser.add_argument("--target", type=int, required=True, help="port of the registry on loopback")
    parser.add_argument("--round-trip", type=float, default=0.02, help="seconds")
    parser.add_argument("--bits-per-second", type=float, default=200e6)
    args = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(args.listen, args.target, args.round_trip, args.bits_per_second))


if __name__ == "__main__":
    main()
