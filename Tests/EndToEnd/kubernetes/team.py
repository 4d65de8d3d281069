"""A Service and its developers, for tests of intercepts."""

import contextlib
import json
import os
import pathlib

import yaml
from harness.web import WebServer

from .load import ServiceLoad

ANNOTATION = "kl.io/holders"
SIDECAR_IMAGE = os.environ.get("KL_TEST_SIDECAR_IMAGE", "kl-sidecar:test")
MANIFESTS = pathlib.Path(__file__).resolve().parents[3] / "agent/kubernetes"


def rules(name):
    """Of a Role that is printed for users."""
    return [rule for part in yaml.safe_load_all((MANIFESTS / f"{name}.yaml").read_text()) for rule in part["rules"]]


# What an intercept needs, and nothing else.
RULES = rules("role")


def proxies(developer):
    """(process, whether it is a shell that ends one, its words) of each `kubectl proxy` that was started for this developer."""
    found = []
    for folder in pathlib.Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if "proxy" in words and f"{developer.home}/".encode() in (folder / "environ").read_bytes():
                    found.append((int(folder.name), not words[0].endswith("kubectl"), words))
    return found


class Team:
    """A Service, and developers who may intercept it, each with a server of their own on the laptop."""

    def __init__(self, cluster, join_cluster, closing):
        self.cluster, self._join, self._closing = cluster, join_cluster, closing
        self.servers, self.developers = {}, []

    def join(self, name="ada", **options):
        developer = self._join(name, **options)
        self.servers[name] = self._closing(WebServer(name))
        developer.name = name
        self.developers.append(developer)
        return developer

    def logs(self):
        """For the report of a test that failed."""
        return "\n".join(developer.logs() for developer in self.developers)

    def words(self, developer, service="api-server", *more, port=80):
        local = self.servers[developer.name].address[1]
        return ["intercept", "start", service, "-p", f"{port}:{local}", "--sidecar-image", SIDECAR_IMAGE, *more]

    def start(self, developer, service="api-server", *more, **options):
        return developer.ok(*self.words(developer, service, *more, **options))

    def load(self, service="api-server", **options):
        return self._closing(ServiceLoad(self.cluster, service, **options)).under_way()

    def facts(self, app="api-server"):
        """What an intercept must not change of pods."""
        return {
            pod["metadata"]["name"]: (pod["metadata"]["uid"], [s["restartCount"] for s in pod["status"]["containerStatuses"]])
            for pod in self.cluster.pods(app)
        }

    def record(self, service="api-server"):
        text = (self.cluster.service(service)["metadata"].get("annotations") or {}).get(ANNOTATION)
        return json.loads(text)["holders"] if text else []

    def is_released(self, service="api-server"):
        self.cluster.answers_original(service)
        assert not self.record(service)
