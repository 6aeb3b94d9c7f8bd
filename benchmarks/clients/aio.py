"""aiohttp with readline and json, as most asyncio clients do. Runs in a venv of its own.

argv: URL, streams, requests a stream, tokens an answer, directory.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from time import monotonic_ns as now_ns  # noqa: TID251 (squall isn't installed here)

import aiohttp

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.clients import answers

BODY = {"model": "m", "messages": [{"role": "user", "content": "key: baba babe"}], "stream": True, "stream_options": {"include_usage": True}}  # fmt: skip
written: list[bytes] = []


async def stream(session: aiohttp.ClientSession, url: str, name: str) -> None:
    start_ns, times = now_ns(), []
    async with session.post(url, json=BODY, headers={"X-Request-Id": name}) as response:
        while line := await response.content.readline():
            if line.startswith(b"data: {"):
                at = now_ns()
                if json.loads(line[6:])["choices"]:
                    times.append(at)
    written.append(answers.pack(name, start_ns, times))


async def main() -> None:
    url, streams, rounds, place = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[5])

    async def user(number: int) -> None:
        for k in range(rounds):
            await stream(session, f"{url}/v1/chat/completions", f"{number}-{k}")

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(user(number) for number in range(streams)))
    place.mkdir(parents=True, exist_ok=True)
    (place / "answers").write_bytes(b"".join(written))


asyncio.run(main())
