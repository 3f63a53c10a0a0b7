"""A plain HTTP balancer before several servers of this machine: to the one with the fewest requests under way.

Enough of HTTP/1.1 for bench/serving.py, and no more: connections that stay open, bodies of a told length, answers of a
told length or in pieces, which are passed on as they come.
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import Sequence

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclasses.dataclass
class Replica:
    """One server, and what is on its way there."""

    port: int
    num_under_way: int = 0
    idle: list[Connection] = dataclasses.field(default_factory=list)


async def balance(port: int, replica_ports: Sequence[int]) -> None:
    """Listen at `port` and pass requests on until cancelled."""
    replicas = [Replica(each) for each in replica_ports]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):  # the client left, or a replica
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.readexactly(told_length(head))
                await pass_on(head + body, writer, min(replicas, key=lambda each: each.num_under_way))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", port, backlog=1024) as server:
        await server.serve_forever()


async def pass_on(request: bytes, client: asyncio.StreamWriter, replica: Replica) -> None:
    """Send a request to a replica and its answer to the client."""
    replica.num_under_way += 1
    try:
        replica.idle = [connection for connection in replica.idle if not connection[0].at_eof()]
        connection = replica.idle.pop() if replica.idle else await asyncio.open_connection("127.0.0.1", replica.port)
        reader, writer = connection
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        client.write(head)
        if b"transfer-encoding: chunked" in head.lower():
            size = 1
            while size:
                line = await reader.readuntil(b"\r\n")
                size = int(line.strip(), 16)
                client.write(line + await reader.readexactly(size + 2))
                await client.drain()
        else:
            client.write(await reader.readexactly(told_length(head)))
        await client.drain()
        replica.idle.append(connection)
    finally:
        replica.num_under_way -= 1


def told_length(head: bytes) -> int:
    """Return the length of the body that a head announces; 0 where it announces none."""
    _, found, rest = head.lower().partition(b"content-length:")
    return int(rest.split(b"\r\n")[0]) if found else 0
