"""Ephemeral containers as an intercept adds them, made by tests of the server itself."""

from harness.keys import KeyPair
from harness.waiting import eventually

from .client import KINDS
from .team import SIDECAR_IMAGE

SIDECAR_CONTEXT = {
    "runAsUser": 0, "runAsGroup": 0, "runAsNonRoot": False, "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}, "seccompProfile": {"type": "RuntimeDefault"},
}  # fmt: skip


def sidecar_entry(name="kl-sidecar-1", image=SIDECAR_IMAGE, **more):
    arguments = ["run", "--listen-tcp", "0.0.0.0:0", "--divert", "redirect", "--service-port", "8080", "--ephemeral"]
    arguments += ["--peer", KeyPair().public]
    entry = {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": arguments,
        "securityContext": SIDECAR_CONTEXT,
    }
    return {**entry, "terminationMessagePolicy": "FallbackToLogsOnError", **more}


def inject(cluster, pod, *entries, kind="strategic", version=None, **query):
    """(code, object) of the PATCH."""
    patch = {"spec": {"ephemeralContainers": list(entries)}}
    if version:
        patch["metadata"] = {"resourceVersion": version}
    path = cluster.path("pods", pod) + "/ephemeralcontainers"
    return cluster.client.ask("PATCH", path, patch, KINDS[kind], **query)


def started(cluster, pod, name="kl-sidecar-1"):
    """Waits until a sidecar is ready, and so hears signals."""
    path = cluster.path("pods", pod) + "/log"
    eventually("the sidecar's ready line", lambda: '"ready":true' in str(cluster.client.ask("GET", path, container=name)[1]), 3)


def state_of(cluster, pod, container):
    return next((state for _, name, state in cluster.sidecars(None) if name == container), {})
