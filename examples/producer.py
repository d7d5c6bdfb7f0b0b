"""A producer that knows nothing of Holdfast but its streams: plain redis-py, one file.

    python examples/producer.py unix:///path/to/practice/server.sock demo

It asks for an appointment and waits for what became of it. Any Redis client in any language can do
the same: an XADD to the book's inputs, and an XREAD of its outcomes, where the answer lies under the
id that the XADD returned.
"""

from __future__ import annotations

import json
import sys
import uuid
from typing import Any, cast

import redis


def ask(client: Any, book: str, kind: str, body: dict[str, object], by: str) -> dict[str, Any]:  # noqa: ANN401
    """Push one command and wait for its outcome."""
    fields = {
        "type": kind,
        "body": json.dumps(body),
        "by": by,
        # One key for one intention: whoever is not sure that it arrived sends the same key again.
        "key": str(uuid.uuid4()),
    }
    mine = cast("str", client.xadd(f"holdfast:{{{book}}}:inputs", fields))
    after = just_before(mine)
    while True:
        found = client.xread({f"holdfast:{{{book}}}:outcomes": after}, count=1, block=5_000)
        if not found:
            raise TimeoutError(f"no outcome of {mine} after 5 s: is a booking actor running?")
        entry_id, outcome = found[0][1][0]
        if entry_id == mine:
            return {"status": outcome["status"], **json.loads(outcome["body"])}
        after = entry_id


def just_before(entry_id: str) -> str:
    """The greatest id below one: XREAD gives what comes after."""
    ms, _, sequence = entry_id.partition("-")
    return f"{ms}-{int(sequence) - 1}" if int(sequence) else f"{int(ms) - 1}-{2**64 - 1}"


def main() -> None:
    """Ask for the best slot of the next two weeks, and say what came of it."""
    if len(sys.argv) != 3:
        sys.exit("usage: python examples/producer.py URL BOOK")
    client = cast("Any", redis.Redis).from_url(sys.argv[1], decode_responses=True)
    try:
        wish: dict[str, object] = {"service": "checkup", "ranges": [["09:00", "12:00"]]}
        outcome = ask(client, sys.argv[2], "request_auto", wish, "customer:P1")
    finally:
        client.close()
    if outcome["status"] != "accepted":
        sys.exit(f"refused: {outcome['details']} ({outcome['code']})")
    for event in outcome["events"]:
        print(
            f"{event['type']}: {event['start']} with {event['staff']}, booking {event['booking']}"
        )


if __name__ == "__main__":
    main()
