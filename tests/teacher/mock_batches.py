"""An OpenAI-compatible batch API for tests: files and batches, in a process of its own.

    with MockBatches(tmp_path / "bought.jsonl") as server: ...

Answers are those of `mock_server.answer`. A batch ends at its second look. Every line that is answered is
appended to the log, so that a test sees what was bought, and how often.
"""

import asyncio
import itertools
import json
import multiprocessing
import time
import uuid
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web
from mock_server import completion


@dataclass
class MockBatches:
    log: Path
    looks: int = 2
    """after how many looks a batch has ended"""
    fail_first: float = 0.0
    """share of the keys whose first try ends in the error file with a 500"""
    fail_always: int | None = None
    """status of every line"""
    expire: int | None = None
    """lines of the first batch that are answered before it expires"""
    invalid: bool = False
    """batches end as `failed`, by validation"""
    queue: int | None = None
    """most lines of all batches that have not ended; a batch beyond that fails at its first look"""
    widens: bool = False
    """whether there is room for all once a batch has ended"""
    line: str | None = None
    """of the result files, in place of the first"""
    body: dict | None = None
    """of every answer, in place of a completion"""
    first_delay: float = 0.0
    """seconds between the creation of the first batch and the answer that says so"""

    def __enter__(self):
        context = multiprocessing.get_context("fork")
        receiver, sender = context.Pipe()
        self.counter = context.Value("l", 0)
        self.process = context.Process(target=_serve, args=(self, sender), daemon=True)
        self.process.start()
        self.url = f"http://127.0.0.1:{receiver.recv()}/v1"
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.join()

    def bought(self):
        """Bodies of all lines that were answered."""
        return [json.loads(line)["body"] for line in self._lines() if "body" in line]

    def batches(self):
        """Number of lines of every batch that was created."""
        return [json.loads(line)["batch"] for line in self._lines() if '"batch"' in line]

    def at_once(self):
        """Most batches that were created between two answers, not before the first."""
        runs = [
            (created, len(list(run)))
            for created, run in itertools.groupby('"batch"' in x for x in self._lines())
        ]
        return max(size for created, size in runs[1:] if created)

    def looked(self):
        """How often somebody has asked after a batch."""
        return self.counter.value

    def _lines(self):
        return self.log.read_text().splitlines() if self.log.exists() else []


def _serve(mock, sender):
    files, batches, tries = {}, {}, Counter()
    run = uuid.uuid4().hex[:8]  # ids are unique, as a vendor's are

    def note(**entry):
        with mock.log.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def put(lines):
        name = f"file-{run}-{len(files)}"
        files[name] = "".join(json.dumps(line) + "\n" for line in lines).encode()
        return name

    def process(batch):
        lines = [json.loads(line) for line in files[batch["input_file_id"]].splitlines()]
        output, errors = [], []
        expires = mock.expire is not None and batch["id"].endswith("-0")
        for number, line in enumerate(lines):
            key = line["custom_id"]
            tries[key] += 1
            status = mock.fail_always or 200
            if int(key[:4], 16) / 65536 < mock.fail_first and tries[key] == 1:
                status = 500
            if expires and number >= mock.expire:
                error = {"code": "batch_expired", "message": "This request could not be executed in time."}
                errors.append({"custom_id": key, "response": None, "error": error})
            elif status != 200:
                response = {"status_code": status, "body": {"error": {"message": "oops"}}}
                errors.append({"custom_id": key, "response": response, "error": None})
            else:
                note(body=line["body"])
                response = {
                    "status_code": 200,
                    "request_id": "q",
                    "body": mock.body or completion(line["body"]),
                }
                output.append({"custom_id": key, "response": response, "error": None})
        batch |= {"status": "expired" if expires else "completed"}
        batch |= {"output_file_id": put(output) if output else None}
        batch |= {"error_file_id": put(errors) if errors else None}
        batch["request_counts"] |= {"completed": len(output), "failed": len(errors)}

    async def upload(request):
        data = await request.post()
        name = f"file-{run}-{len(files)}"
        files[name] = data["file"].file.read()
        return web.json_response({"id": name, "object": "file", "purpose": data["purpose"]})

    async def content(request):
        body = files[request.match_info["id"]]
        if mock.line is not None:
            body = mock.line.encode() + body[body.index(b"\n") :]
        return web.Response(body=body)

    async def create(request):
        wanted = await request.json()
        count = files[wanted["input_file_id"]].count(b"\n")
        id = f"batch-{run}-{len(batches)}"
        counts = {"total": count, "completed": 0, "failed": 0}
        batches[id] = {"id": id, "object": "batch", "status": "validating", "looks": 0, **wanted}
        batches[id] |= {"request_counts": counts, "created_at": int(time.time())}
        note(batch=count)
        if len(batches) == 1:
            await asyncio.sleep(mock.first_delay)
        return web.json_response(batches[id])

    async def retrieve(request):
        batch = batches[request.match_info["id"]]
        batch["looks"] += 1
        mock.counter.value += 1
        if mock.queue is not None and batch["status"] == "validating":
            busy = sum(b["request_counts"]["total"] for b in batches.values() if b["status"] == "in_progress")
            ended = any(b["status"] == "completed" for b in batches.values())
            fits = busy + batch["request_counts"]["total"] <= mock.queue or (mock.widens and ended)
            batch["status"] = "in_progress" if fits else "failed"
            message = f"Enqueued token limit reached. Limit: {mock.queue} enqueued tokens."
            batch["errors"] = (
                None if fits else {"data": [{"code": "token_limit_exceeded", "message": message}]}
            )
        if batch["status"] == "failed":
            return web.json_response(batch)
        if batch["looks"] == mock.looks:
            if mock.invalid:
                batch["status"] = "failed"
                batch["errors"] = {"data": [{"code": "invalid", "message": "The model is not offered."}]}
            else:
                process(batch)
        return web.json_response(batch)

    async def listed(request):
        return web.json_response({"object": "list", "data": list(batches.values()), "has_more": False})

    async def main():
        app = web.Application(client_max_size=1 << 28)
        app.router.add_post("/v1/files", upload)
        app.router.add_get("/v1/files/{id}/content", content)
        app.router.add_post("/v1/batches", create)
        app.router.add_get("/v1/batches", listed)
        app.router.add_get("/v1/batches/{id}", retrieve)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        sender.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(main())
