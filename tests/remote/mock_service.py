"""A fine-tuning service for tests, in a process of its own: `with MockService(folder) as service`.

It speaks both dialects, OpenAI's below /v1 and Together's below /together/v1. A job takes a step at every
look and ends after `looks` of them. State lives until `reset`, whatever happens to its clients.
"""

import asyncio
import json
import multiprocessing
import os
import signal
from dataclasses import dataclass

from aiohttp import web

KEY = "sk-very-secret"


@dataclass
class MockService:
    looks: int = 3
    end: str = "succeeded"
    error: str = "the data is no good"
    has_metrics: bool = True

    def __enter__(self):
        context = multiprocessing.get_context("fork")
        receiver, sender = context.Pipe()
        self.manager = context.Manager()
        self.state = self.manager.dict()
        self.reset()
        self.process = context.Process(target=_serve, args=(self, sender), daemon=True)
        self.process.start()
        self.port = receiver.recv()
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.join()
        self.manager.shutdown()

    def reset(self, faults=None):
        """Forget everything, and meet the requests to come with faults.

        faults: number of a request (from 0) -> a status, `lost` (done, not answered) or `reset` (not done).
        """
        self.state.update(jobs={}, files={}, events={}, requests=[], deadly=None, faults=faults or {})

    def url(self, dialect):
        return f"http://127.0.0.1:{self.port}/{'v1' if dialect == 'openai' else 'together/v1'}"

    def jobs(self):
        return list(self.state["jobs"].values())

    def files(self):
        return list(self.state["files"].values())

    def requests(self):
        """Method and path of each."""
        return self.state["requests"]

    def kill(self, pid, at, moment):
        """Let a process die at the at-th request (from 0), `before` or `after` it is carried out."""
        self.state["deadly"] = (pid, at, moment)


def _serve(mock, sender):
    jobs, files, events, state = {}, {}, {}, mock.state

    @web.middleware
    async def gate(request, handler):
        shared = state.copy()
        for mine, name in ((jobs, "jobs"), (files, "files"), (events, "events")):
            mine.clear()
            mine.update(shared[name])
        number = len(shared["requests"])
        state["requests"] = [*shared["requests"], f"{request.method} {request.path}"]
        victim, *deadly = shared["deadly"] or (None, None, None)
        if deadly == [number, "before"]:
            os.kill(victim, signal.SIGKILL)
            raise web.HTTPServiceUnavailable
        fault = shared["faults"].get(number)
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            said = f"Incorrect API key provided: {request.headers.get('Authorization')}"
            return web.json_response({"error": {"message": said}}, status=401)
        if isinstance(fault, int):
            headers = {"retry-after-ms": "5"}
            return web.json_response({"error": {"message": "not now"}}, status=fault, headers=headers)
        if fault == "reset":
            request.transport.abort()
            return web.Response()
        response = await handler(request)
        state.update(jobs=jobs, files=files, events=events)
        if deadly == [number, "after"]:
            os.kill(victim, signal.SIGKILL)
        if fault == "lost":
            request.transport.abort()
        return response

    def listing(rows, request):
        """Two entries a page, so that pages are turned."""
        after = request.query.get("after")
        ids = [row["id"] for row in rows]
        start = ids.index(after) + 1 if after else 0
        page = rows[start : start + 2]
        return web.json_response({"object": "list", "data": page, "has_more": start + 2 < len(rows)})

    async def upload(request):
        data = await request.post()
        content = data["file"].file.read()
        id = f"file-{len(files)}"
        files[id] = {
            "id": id,
            "object": "file",
            "filename": data.get("file_name", data["file"].filename),
            "bytes": len(content),
            "purpose": data["purpose"],
            "content": content.decode(),
        }
        return web.json_response({k: v for k, v in files[id].items() if k != "content"})

    async def list_files(request):
        return listing([{k: v for k, v in f.items() if k != "content"} for f in files.values()], request)

    def created(body, **shown):
        id = f"job-{len(jobs)}"
        jobs[id] = {"id": id, **body, "looks": 0, **shown}
        events[id] = []
        return web.json_response(jobs[id])

    async def create(request):
        return created(await request.json(), status="validating_files", fine_tuned_model=None)

    async def list_jobs(request):
        return listing(list(jobs.values())[::-1], request)

    def look(job):
        """Let the job take a step."""
        job["looks"] += 1
        step = job["looks"]
        if step < mock.looks:
            job["status"] = "running"
            data = {"step": step, "train_loss": 2 / step, "valid_loss": 3.0 if step == 2 else None}
            if step == 1:
                events[job["id"]].append({"id": "first", "level": "info", "message": "Job started"})
            entry = {
                "id": f"e{step}",
                "level": "info",
                "message": f"Step {step}, of {KEY}",
                "type": "metrics",
            }
            events[job["id"]].append({**entry, "data": data})
        elif job["status"] != mock.end:
            job["status"] = mock.end
            message = {"id": "last", "level": "info", "message": f"The job has {mock.end}", "type": "message"}
            events[job["id"]].append(message)
            if mock.end == "succeeded":
                job |= {"fine_tuned_model": f"ft:{job['model']}:7", "trained_tokens": 4321}
            else:
                job["error"] = {"code": "bad", "message": mock.error}

    async def job(request):
        found = jobs.get(request.match_info["id"])
        if found is None:
            return web.json_response({"error": {"message": "No such job"}}, status=404)
        look(found)
        return web.json_response(found)

    async def list_events(request):
        return listing(events[request.match_info["id"]][::-1], request)

    async def cancel(request):
        jobs[request.match_info["id"]]["status"] = "cancelled"
        return web.json_response(jobs[request.match_info["id"]])

    words = {"succeeded": "completed", "failed": "error"}

    def together(row):
        """A job as Together shows it; its name is there from the beginning."""
        hidden = ("fine_tuned_model", "trained_tokens", "error")
        shown = {k: v for k, v in row.items() if k not in hidden}
        shown |= {"status": words.get(row["status"], row["status"]), "token_count": row.get("trained_tokens")}
        return shown | {"model_output_name": f"me/{row['model']}-7", "created_at": row["id"]}

    async def create_together(request):
        response = created(await request.json(), status="pending", fine_tuned_model=None)
        return web.json_response(together(json.loads(response.body)))

    async def list_jobs_together(request):
        return web.json_response({"data": [together(row) for row in jobs.values()]})

    async def job_together(request):
        await job(request)
        return web.json_response(together(jobs[request.match_info["id"]]))

    async def events_together(request):
        id = request.match_info["id"]
        told = [{"created_at": "1", "message": "Job started", "type": "job_start", "level": None, "hash": ""}]
        if jobs[id].get("error"):
            said = jobs[id]["error"]["message"]
            told.insert(0, {"created_at": "2", "message": said, "type": "job_error", "level": "error"})
        return web.json_response({"data": told})

    async def metrics_together(request):
        if not mock.has_metrics:
            raise web.HTTPNotFound
        rows = []
        for event in events[request.match_info["id"]]:
            if data := event.get("data"):
                step = {"timestamp": 1, "train/global_step": float(data["step"])}
                rows.append(step | {"train/loss": data["train_loss"], "train/learning_rate": 1e-5})
                rows += [step | {"eval/loss": data["valid_loss"]}] if data["valid_loss"] else []
        return web.json_response({"metrics": rows})

    async def main():
        app = web.Application(client_max_size=1 << 28, middlewares=[gate])
        app.router.add_get("/v1/files", list_files)
        app.router.add_post("/v1/files", upload)
        app.router.add_get("/v1/fine_tuning/jobs", list_jobs)
        app.router.add_post("/v1/fine_tuning/jobs", create)
        app.router.add_get("/v1/fine_tuning/jobs/{id}", job)
        app.router.add_get("/v1/fine_tuning/jobs/{id}/events", list_events)
        app.router.add_post("/v1/fine_tuning/jobs/{id}/cancel", cancel)
        app.router.add_get("/together/v1/files", list_files)
        app.router.add_post("/together/v1/files/upload", upload)
        app.router.add_get("/together/v1/fine-tunes", list_jobs_together)
        app.router.add_post("/together/v1/fine-tunes", create_together)
        app.router.add_get("/together/v1/fine-tunes/{id}", job_together)
        app.router.add_get("/together/v1/fine-tunes/{id}/events", events_together)
        app.router.add_get("/together/v1/fine-tunes/{id}/metrics", metrics_together)
        app.router.add_post("/together/v1/fine-tunes/{id}/cancel", cancel)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        sender.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(main())
