"""A stand-in for W&B's server on this machine, which answers what a run needs and can go away in the middle of one."""

from __future__ import annotations

import json
import re
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class Server:
    """Keeps the history of each run, by the run's id, and workspaces. A context manager: it is there while it is entered."""

    def __init__(self, away_after: int | None = None) -> None:
        """``away_after``: how many uploads of history it takes before it goes away; None never."""
        self.history: dict[str, list[dict[str, Any]]] = {}
        self.tags: dict[str, list[str]] = {}
        self.job_types: dict[str, str | None] = {}
        """The runs that there are for who asks for a project's, by their id."""
        self.workspaces: list[dict[str, Any]] = []
        self.away_after = away_after
        self.uploads = 0
        server = self

        class Handler(_Handler):
            kept = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> Server:
        Thread(target=self._http.serve_forever, args=[0.05], daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def away(self) -> bool:
        return self.away_after is not None and self.uploads >= self.away_after


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    kept: Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (its name in the base class)
        """Say nothing."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.path.endswith("/graphql"):
            query = json.loads(body)
            name = re.search(r"(?:query|mutation)\s+(\w+)", query["query"])
            self._reply({"data": self._answer(name[1] if name else "", query.get("variables") or {})})
        elif "file_stream" in self.path:
            for file, chunk in (json.loads(body).get("files") or {}).items():
                if file == "wandb-history.jsonl" and not self.kept.away:
                    history = self.kept.history[self.path.split("/")[-2]]
                    history[chunk["offset"] :] = map(json.loads, chunk["content"])
                    self.kept.uploads += 1
            self._reply({})
        else:
            self._reply({})

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self._reply({})

    def _reply(self, answer: Any) -> None:
        if self.kept.away:  # as a cable that is pulled: no answer
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _answer(self, name: str, given: dict[str, Any]) -> Any:
        project = {"id": "cA==", "name": given.get("project"), "entity": {"id": "ZQ==", "name": "me"}}
        match name:
            case "Viewer":
                return {"viewer": {"id": "dQ==", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}
            case "RunResumeStatus":
                return {"model": project | {"bucket": self._bucket(given["name"])}}
            case "UpsertBucket":
                self.kept.history.setdefault(given["name"] or "", [])
                self.kept.tags[given["name"] or ""] = given.get("tags") or []
                bucket = {"id": "aWQ=", "name": given["name"], "displayName": given["displayName"], "config": given["config"]}
                return {"upsertBucket": {"bucket": bucket | {"project": project, "historyLineCount": 0}, "inserted": True}}
            case "CreateRunFiles":
                files = [{"name": file, "uploadUrl": f"{self.kept.url}/upload"} for file in given["files"]]
                return {"createRunFiles": {"runID": "aWQ=", "uploadHeaders": [], "files": files}}
            case "CreateArtifact":
                artifact = {"id": "YQ==", "state": "COMMITTED", "artifactSequence": {"latestArtifact": {"id": "YQ=="}}}
                return {"createArtifact": {"artifact": artifact}}
            case "GetDefaultEntity":
                return {"viewer": {"id": "dQ==", "entity": "me"}}
            case "Runs":
                pages = {
                    "edges": [*map(_listed, self.kept.job_types.items())],
                    "pageInfo": {"endCursor": "", "hasNextPage": False},
                }
                return {"project": {"internalId": "1", "runCount": len(pages["edges"]), "readOnly": False, "runs": pages}}
            case "UpsertView2":
                self.kept.workspaces.append(given | {"spec": json.loads(given["spec"])})
                return {"upsertView": {"view": {"id": "dg==", "name": given["name"]}, "inserted": True}}
            case "upsertView":  # a report's
                self.kept.workspaces.append(given | {"spec": json.loads(given["spec"])})
                view = {"id": "dg==", "name": given["name"], "displayName": given["displayName"], "description": ""}
                return {"upsertView": {"view": view | {"type": given["type"], "project": project, "spec": given["spec"]}}}
            case "ProjectInternalId":
                return {"project": {"id": "cA==", "internalId": "1"}}
            case "GetProjects":
                pages = {"edges": [], "pageInfo": {"endCursor": "", "hasNextPage": False}}
                return {"models": pages}
            case "NotifyScriptableRunAlert":
                return {"notifyScriptableRunAlert": {"success": True}}
        return {}

    def _bucket(self, run: str) -> Any:
        """What there is of a run that somebody wants to go on with."""
        history = self.kept.history.get(run)
        if history is None:
            return None
        lines = {"logLineCount": 0, "eventsLineCount": 0, "historyLineCount": len(history)}
        tails = {"eventsTail": "[]", "historyTail": json.dumps([json.dumps(row) for row in history[-1:]])}
        about = {
            "id": "aWQ=",
            "name": run,
            "displayName": run,
            "config": "{}",
            "summaryMetrics": "{}",
            "tags": [],
            "notes": None,
        }
        return {**about, **lines, **tails, "wandbConfig": '{"t": 1}'}


def _listed(run: tuple[str, str | None]) -> Any:
    """A run in the list of a project's."""
    name, job_type = run
    unknown = dict.fromkeys(("sweepName", "group", "commit", "heartbeatAt", "description", "notes"))
    about = {"id": "aWQ=", "projectId": "1", "name": name, "displayName": name, "jobType": job_type, "state": "finished"}
    more = {"tags": [], "readOnly": False, "createdAt": "2026-01-01T00:00:00", "historyLineCount": 1}
    return {"node": unknown | about | more | {"user": {"name": "me", "username": "me"}}, "cursor": name}
