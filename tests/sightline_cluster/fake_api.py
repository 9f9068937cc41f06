"""A stand-in for a cluster's API: answers what a launcher asks, and notes every request.

Only what a real cluster cannot be made to do in a test's time is shown with it: which request
comes first after a signal, an API that is away, what a launcher reads of pods.
"""

import json
import threading
import time
import urllib.parse
import uuid
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

JOBS = "/apis/kubeflow.org/v1/namespaces/team/pytorchjobs"
PODS = "/api/v1/namespaces/team/pods"
QUOTAS = "/api/v1/namespaces/team/resourcequotas"


class FakeApi:
    """One namespace `team`; the methods that speak of the job want it to hold one."""

    def __init__(self):
        self.requests = []
        self.ports = []
        """The client's port of each request: one for each connection."""
        self.jobs = {}
        self.pods = []
        self.own_pod = None
        """The launcher's own pod; it belongs to no job."""
        self.logs = {}
        """Lines by pod, each as text, or as (stamp, text)."""
        self.events = []
        self.quotas = []
        self.refuse = None
        """A function of method and path that returns (status, message), or None; bytes for a
        message are an answer as another server than an API gives it."""
        self.admit = lambda job: None
        """What a webhook of the cluster does to a job that is created."""
        self.changed = threading.Condition()
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                api.answer(self, "GET")

            def do_POST(self):
                api.answer(self, "POST")

            def do_DELETE(self):
                api.answer(self, "DELETE")

            def do_PATCH(self):
                api.answer(self, "PATCH")

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def kubeconfig(self, path):
        """Write a kubeconfig that leads here."""
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
                    "users": [{"name": "me", "user": {}}],
                    "contexts": [
                        {
                            "name": "fake",
                            "context": {"cluster": "fake", "user": "me", "namespace": "team"},
                        }
                    ],
                    "current-context": "fake",
                }
            )
        )
        return path

    def set_condition(self, kind, message=""):
        """Let the only job reach a state."""
        with self.changed:
            (job,) = self.jobs.values()
            entry = {"type": kind, "status": "True", "message": message}
            job.setdefault("status", {}).setdefault("conditions", []).append(entry)
            self.changed.notify_all()

    def set_pod(self, uid, state, name="job-worker-0", owner="", **status):
        """Let a container of a job's pod reach a state, as `{"running": {}}`."""
        owner = owner or next(job["metadata"]["uid"] for job in self.jobs.values())
        owners = [{"kind": "PyTorchJob", "uid": owner}]
        metadata = {"name": name, "uid": uid, "namespace": "team", "ownerReferences": owners}
        pod = {
            "metadata": metadata,
            "spec": {"containers": [{"name": "pytorch", "image": "sightline/train:1"}]},
            "status": {"containerStatuses": [{"name": "pytorch", "state": state}], **status},
        }
        with self.changed:
            self.pods = [p for p in self.pods if p["metadata"]["name"] != name] + [pod]
            self.changed.notify_all()

    def wait_for(self, method, path, times=1):
        """Wait until a request was made."""
        deadline = time.monotonic() + 30
        while sum(m == method and p.startswith(path) for m, p in self.requests) < times:
            assert time.monotonic() < deadline, self.requests
            time.sleep(0.01)

    def answer(self, handler, method):
        path, _, query = handler.path.partition("?")
        length = int(handler.headers.get("Content-Length") or 0)
        body = json.loads(handler.rfile.read(length)) if length else None
        self.ports.append(handler.client_address[1])
        is_dry = "dryRun=All" in query
        self.requests.append(("dry run" if is_dry else method, path))
        refused = self.refuse and self.refuse(method, path)
        if refused and isinstance(refused[1], bytes):
            _send_bytes(handler, *refused)
        elif refused:
            _send_status(handler, *refused)
        elif path == JOBS and method == "POST":
            self.admit(body)
            name = body["metadata"]["name"]
            taken = name in self.jobs
            if not taken and not is_dry:
                body["metadata"]["uid"] = str(uuid.uuid4())
                self.jobs[name] = body
            if taken:
                _send_status(handler, 409, f'pytorchjobs.kubeflow.org "{name}" already exists')
            else:
                _send(handler, 201, body)
        elif path == JOBS:
            _send(handler, 200, {"items": list(self.jobs.values())})
        elif path.startswith(JOBS):
            self._answer_about_job(handler, method, path.rpartition("/")[2], body)
        elif path == PODS and "watch=true" in query:
            self._watch(handler)
        elif path == PODS and "fieldSelector" in query:
            _send(handler, 200, {"items": [self.own_pod] if self.own_pod else []})
        elif path == PODS:
            _send(handler, 200, {"items": self.pods, "metadata": {"resourceVersion": "1"}})
        elif path.endswith("/log"):
            lines = _stamped(self.logs.get(path.split("/")[-2], []))
            asked = urllib.parse.parse_qs(query)
            if "sinceTime" in asked:
                since = datetime.fromisoformat(asked["sinceTime"][0])
                lines = [line for line in lines if datetime.fromisoformat(line[0]) >= since]
            lines = lines[-int(asked.get("tailLines", ["1000"])[0]) :]
            _send_bytes(handler, 200, "".join(f"{' '.join(line)}\n" for line in lines).encode())
        elif path.endswith("/events"):
            # An event that names no object is one about whatever is asked for.
            asked = urllib.parse.parse_qs(query)["fieldSelector"][0]
            uid = asked.removeprefix("involvedObject.uid=")
            about = [e for e in self.events if e.get("involvedObject", {"uid": uid})["uid"] == uid]
            _send(handler, 200, {"items": about})
        else:
            _send(handler, 200, {"items": self.quotas})

    def _answer_about_job(self, handler, method, name, body):
        if name not in self.jobs:
            _send_status(handler, 404, f'pytorchjobs.kubeflow.org "{name}" not found')
            return
        if method == "DELETE":
            _send(handler, 200, self.jobs.pop(name))
            return
        if method == "PATCH":
            self.jobs[name]["metadata"]["annotations"] |= body["metadata"]["annotations"]
        _send(handler, 200, self.jobs[name])

    def _watch(self, handler):
        # One change each time something changes, and then the end, as after a lost connection.
        with self.changed:
            self.changed.wait(0.3)
            told = [{"type": "MODIFIED", "object": pod} for pod in self.pods]
        _send_bytes(handler, 200, "".join(json.dumps(entry) + "\n" for entry in told).encode())


def _stamped(lines):
    stamp = "2026-11-26T10:00:00.{:09d}Z"
    return [
        (stamp.format(i), line) if isinstance(line, str) else line for i, line in enumerate(lines)
    ]


def _send_status(handler, status, message):
    _send(handler, status, {"kind": "Status", "message": message})


def _send(handler, status, content):
    _send_bytes(handler, status, json.dumps(content).encode())


def _send_bytes(handler, status, content):
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)
