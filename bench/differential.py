"""The log in memory against the one on a real server: random calls side by side, no difference.

    python bench/differential.py [--commands 100000] [--seed 1]

Starts a server of its own. Prints one line of JSON; a difference is shrunk, printed, and ends it with
exit code 1.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

import trio

from holdfast.sim.differential import Pair, draw_steps, shrink
from holdfast.transport.connection import parse_url
from holdfast.transport.pool import Server, ServerOptions
from holdfast.transport.server import EmbeddedServer, ServerConfig


async def compare(url: str, commands: int, seed: int) -> int:
    """Run sequences until there were *commands* calls; the exit code."""
    server = Server(parse_url(url), ServerOptions(), random.Random(seed))
    pair = Pair(server)
    begun = time.perf_counter()
    sequence = 0
    while pair.commands < commands:
        steps = draw_steps(seed * 1_000_000 + sequence)
        sequence += 1
        if await pair.run(steps) is None:
            continue
        fewer, difference = await shrink(steps, pair.run)
        print(f"sequence {sequence - 1} of seed {seed}: {len(steps)} steps shrunk to {len(fewer)}")
        for step in fewer:
            print(f"  {step}")
        print(difference)
        return 1
    result = {
        "commands": pair.commands,
        "refused": pair.errors,
        "sequences": sequence,
        "differences": 0,
        "seconds": round(time.perf_counter() - begun, 1),
    }
    print(json.dumps(result))
    await server.aclose()
    return 0


def main() -> int:
    """Read the arguments, start the server, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--commands", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedServer(ServerConfig(Path(folder), durability="relaxed"))
        server.start()
        try:
            trio.run(server.wait_ready)
            return trio.run(compare, server.url, args.commands, args.seed)
        finally:
            server.stop_now()


if __name__ == "__main__":
    sys.exit(main())
