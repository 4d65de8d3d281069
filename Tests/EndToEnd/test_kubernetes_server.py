"""The small API server, asked by the real kubectl: what other tests build on."""

import json
import subprocess
import time

import pytest
from harness.keys import KeyPair
from harness.waiting import eventually
from kubernetes import failures
from kubernetes.injection import SIDECAR_CONTEXT, inject, sidecar_entry, state_of
from kubernetes.team import RULES


@pytest.fixture
def pod(cluster):
    cluster.create("api-server")
    return cluster.names("api-server")[0]


@pytest.fixture
def dev(small_cluster, make_kubectl):
    return make_kubectl(small_cluster.user("dev", RULES))


def test_what_kubectl_finds(cluster, kubectl, pod):
    assert json.loads(kubectl.ok("version", "-o", "json"))["serverVersion"]["major"] == "1"
    names = kubectl.ok("api-resources", "-o", "name").split()
    assert {"pods", "services", "namespaces", "deployments.apps", "endpointslices.discovery.k8s.io"} <= set(names)
    assert pod in kubectl.ok("get", "pods", "-o", "name", "-l", "app in (api-server, other),!gone")
    assert kubectl.ok("get", "pods", "-o", "name", "-l", "app=other") == ""
    assert pod in kubectl.ok("get", "pods", "-o", "name", "--field-selector", f"metadata.name={pod}")
    assert json.loads(kubectl.ok("get", "service", "api-server", "-o", "json"))["spec"]["ports"][0]["targetPort"] == 8080
    ran = kubectl.run("get", "pod", "nothing")
    assert ran.returncode == 1 and 'Error from server (NotFound): pods "nothing" not found' in ran.stderr


def test_a_service_answers_by_its_pods(cluster):
    cluster.create("api-server", replicas=2)
    assert sorted(cluster.who("api-server")) == sorted(f"{name} original" for name in cluster.names("api-server"))
    cluster.scale("api-server", 3)
    eventually("three pods answer", lambda: len(cluster.endpoints("api-server")) == 3, cluster.READY)
    before = cluster.names("api-server")
    cluster.roll_out("api-server")
    assert not set(before) & set(cluster.names("api-server"))
    eventually("three new pods answer", lambda: len(cluster.endpoints("api-server")) == 3, cluster.READY)


def test_named_ports_that_differ_from_pod_to_pod(cluster):
    cluster.create_service("api-server", {"web": (80, "http")})
    cluster.create_pod("one", "api-server", ports={"http": 8081})
    cluster.create_pod("two", "api-server", ports={"http": 8082})
    cluster.create_pod("three", "api-server", ports={"other": 8083})
    eventually("two have a port of that name", lambda: len(cluster.endpoints("api-server")) == 2, cluster.READY)
    assert {port for _, port in cluster.endpoints("api-server")} == {8081, 8082}


def test_lists_in_pages(small_cluster, kubectl):
    for number in range(5):
        small_cluster.create_service(f"s{number}")
    path = "/api/v1/namespaces/demo/services"
    first = json.loads(kubectl.raw(f"{path}?limit=2"))
    assert len(first["items"]) == 2 and first["metadata"]["remainingItemCount"] == 3
    small_cluster.create_service("later")
    token = first["metadata"]["continue"]
    second = json.loads(kubectl.raw(f"{path}?limit=10&continue={token}"))
    assert [s["metadata"]["name"] for s in second["items"]] == ["s2", "s3", "s4"]
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    small_cluster.api.forget_pages()
    ran = kubectl.run("get", "--raw", f"{path}?limit=10&continue={token}")
    assert ran.returncode == 1 and "too old to display a consistent list" in ran.stderr
    assert len(kubectl.ok("get", "services", "--chunk-size=2", "-o", "name").split()) == 6


class Lines:
    """The lines of a watch, as they come."""

    def __init__(self, kubectl, closing, path):
        self.child = closing(_Ending(kubectl.begin("get", "--raw", path))).child

    def next(self):
        line = self.child.stdout.readline()
        return json.loads(line) if line else None


class _Ending:
    def __init__(self, child):
        self.child = child

    def close(self):
        self.child.kill()
        self.child.communicate()


WHOLE = "watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"


def test_a_watch_that_begins_with_a_list(cluster, kubectl, closing):
    cluster.create_service("one")
    lines = Lines(kubectl, closing, f"{cluster.path('services')}?{WHOLE}")
    first, mark = lines.next(), lines.next()
    assert (first["type"], first["object"]["metadata"]["name"]) == ("ADDED", "one")
    assert mark["type"] == "BOOKMARK" and mark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    cluster.client.patch(cluster.path("services", "one"), {"metadata": {"annotations": {"a": "b"}}})
    changed = lines.next()
    assert changed["type"] == "MODIFIED" and changed["object"]["metadata"]["annotations"] == {"a": "b"}
    assert int(changed["object"]["metadata"]["resourceVersion"]) > int(mark["object"]["metadata"]["resourceVersion"])
    cluster.client.delete(cluster.path("services", "one"))
    assert lines.next()["type"] == "DELETED"


def test_a_watch_from_a_version(cluster, kubectl, closing):
    cluster.create_service("one")
    version = cluster.client.get(cluster.path("services"))["metadata"]["resourceVersion"]
    cluster.create_service("two")
    lines = Lines(kubectl, closing, f"{cluster.path('services')}?watch=1&resourceVersion={version}&timeoutSeconds=2")
    assert lines.next()["object"]["metadata"]["name"] == "two"
    assert lines.next() is None and lines.child.wait(30) == 0


def test_a_label_that_goes_ends_the_object_for_a_watch(cluster, kubectl, closing):
    cluster.client.create(
        cluster.path("services"), {"metadata": {"name": "one", "labels": {"a": "b"}}, "spec": {"ports": [{"port": 80}]}}
    )
    lines = Lines(kubectl, closing, f"{cluster.path('services')}?{WHOLE}&labelSelector=a%3Db")
    assert [lines.next()["type"], lines.next()["type"]] == ["ADDED", "BOOKMARK"]
    for value, wanted in (("c", "DELETED"), ("b", "ADDED")):
        cluster.client.patch(cluster.path("services", "one"), {"metadata": {"labels": {"a": value}}})
        assert lines.next()["type"] == wanted


def test_how_watches_end(small_cluster, kubectl, closing):
    """Cut: code 1. Ended, or with an ERROR line: code 0."""
    path = f"{small_cluster.path('pods')}?{WHOLE}"

    def begin():
        lines = Lines(kubectl, closing, path)
        assert lines.next()["type"] == "BOOKMARK"
        return lines, small_cluster.api.streams.find(verb="watch", resource="pods")[-1]

    lines, stream = begin()
    stream.cut()
    assert lines.next() is None
    assert lines.child.wait(30) == 1 and "unexpected EOF" in lines.child.stderr.read()
    lines, stream = begin()
    stream.end()
    assert lines.next() is None and lines.child.wait(30) == 0
    lines, stream = begin()
    stream.end(failures.expired(1, 2))
    last = lines.next()
    assert last["type"] == "ERROR" and last["object"]["code"] == 410 and last["object"]["reason"] == "Expired"
    assert lines.next() is None and lines.child.wait(30) == 0
    lines, stream = begin()
    stream.silence()
    small_cluster.create_pod("late")
    assert lines.child.poll() is None
    stream.cut()
    assert lines.next() is None


def test_a_version_that_is_forgotten(small_cluster, kubectl, closing):
    version = small_cluster.client.get(small_cluster.path("pods"))["metadata"]["resourceVersion"]
    small_cluster.store.compact()
    lines = Lines(kubectl, closing, f"{small_cluster.path('pods')}?watch=1&resourceVersion={version}")
    last = lines.next()
    assert last["type"] == "ERROR" and last["object"]["message"].startswith(f"too old resource version: {version} (")
    assert lines.next() is None and lines.child.wait(30) == 0


def test_a_server_that_cannot_begin_a_watch_with_a_list(small_cluster, kubectl):
    small_cluster.api.has_watch_lists = False
    ran = kubectl.run("get", "--raw", f"{small_cluster.path('pods')}?{WHOLE}")
    assert ran.returncode == 1 and "sendInitialEvents is forbidden for watch" in ran.stderr


def test_bookmarks(small_cluster, kubectl, closing):
    small_cluster.api.bookmark_seconds = 0.2
    lines = Lines(kubectl, closing, f"{small_cluster.path('pods')}?watch=1&allowWatchBookmarks=true")
    small_cluster.create_service("one")
    version = small_cluster.service("one")["metadata"]["resourceVersion"]
    eventually(
        "a bookmark of what happened elsewhere", lambda: lines.next()["object"]["metadata"]["resourceVersion"] >= version, 1
    )


def test_patches(cluster, kubectl):
    service = cluster.create_service("one")
    kubectl.ok("patch", "service", "one", "--type=merge", "-p", '{"metadata":{"annotations":{"a":"1","b":"2"}}}')
    kubectl.ok("patch", "service", "one", "--type=json", "-p", '[{"op":"remove","path":"/metadata/annotations/a"}]')
    assert cluster.service("one")["metadata"]["annotations"] == {"b": "2"}
    stale = {"metadata": {"resourceVersion": service["metadata"]["resourceVersion"], "annotations": {"c": "3"}}}
    ran = kubectl.run("patch", "service", "one", "--type=merge", "-p", json.dumps(stale))
    assert ran.returncode == 1 and "Error from server (Conflict): Operation cannot be fulfilled on services" in ran.stderr
    before = cluster.service("one")
    kubectl.ok("patch", "service", "one", "--dry-run=server", "--type=merge", "-p", '{"metadata":{"annotations":{"c":"3"}}}')
    assert cluster.service("one") == before


def test_an_ephemeral_container_is_the_real_sidecar(cluster, kubectl, pod):
    before = cluster.pod(pod)
    code, found = inject(cluster, pod, sidecar_entry(), dryRun="All")
    assert code == 200 and found["spec"]["ephemeralContainers"][0]["name"] == "kl-sidecar-1"
    assert cluster.pod(pod)["spec"] == before["spec"]
    assert inject(cluster, pod, sidecar_entry())[0] == 200
    eventually("the sidecar runs", lambda: "running" in state_of(cluster, pod, "kl-sidecar-1"), cluster.READY)
    said = eventually("its ready line", lambda: kubectl.run("logs", pod, "-c", "kl-sidecar-1").stdout, cluster.READY)
    ready = json.loads(said.splitlines()[0])
    assert ready["ready"] and ready["tcp"].startswith("0.0.0.0:")
    key = KeyPair().public
    admitted = json.loads(kubectl.ok("exec", pod, "-c", "kl-sidecar-1", "--", "/kl-sidecar", "admit", key))
    assert admitted["admitted"] and admitted["publicKey"] == ready["publicKey"]
    assert cluster.pod(pod)["metadata"]["uid"] == before["metadata"]["uid"]
    assert cluster.pod(pod)["status"]["containerStatuses"] == before["status"]["containerStatuses"]


def test_what_is_refused_of_ephemeral_containers(cluster, pod):
    first = sidecar_entry("kl-sidecar-1")
    version = cluster.pod(pod)["metadata"]["resourceVersion"]
    assert inject(cluster, pod, first)[0] == 200

    def refused(*entries, code=422, reason="Invalid", **options):
        answer, found = inject(cluster, pod, *entries, **options)
        assert (answer, found["reason"]) == (code, reason), found
        return found["message"]

    assert 'existing ephemeral containers "kl-sidecar-1" may not be removed' in refused(
        sidecar_entry("kl-sidecar-2"), kind="merge"
    )
    assert "may not be changed" in refused({**first, "image": "other:1"})
    assert "cannot be set for an Ephemeral Container" in refused(sidecar_entry("x", ports=[{"containerPort": 1}]))
    assert 'targetContainerName: Not found: "nothing"' in refused(sidecar_entry("x", targetContainerName="nothing"))
    assert 'Duplicate value: "app"' in refused(sidecar_entry("app"))
    assert "the object has been modified" in refused(sidecar_entry("x"), code=409, reason="Conflict", version=version)


def test_pod_security(small_cluster):
    for level, wanted in (("baseline", "non-default capabilities"), ("restricted", "unrestricted capabilities")):
        small_cluster.create_namespace(level, enforce=level)
        place = small_cluster.in_namespace(level)
        safe = {"allowPrivilegeEscalation": False, "runAsNonRoot": True, "runAsUser": 1000, "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"}}  # fmt: skip
        place.create_pod("one", context=safe)
        code, found = inject(place, "one", sidecar_entry(), dryRun="All")
        assert code == 403 and found["reason"] == "Forbidden"
        assert found["message"].startswith(f'pods "one" is forbidden: violates PodSecurity "{level}:latest": {wanted}')
        assert 'must not include "NET_ADMIN" in securityContext.capabilities.add' in found["message"]


def test_a_container_that_cannot_start(small_cluster, pod):
    cluster = small_cluster
    cluster.nodes.absent_images.add("kl-sidecar:absent")

    def reason(name):
        return state_of(cluster, pod, name).get("waiting", {}).get("reason")

    assert inject(cluster, pod, sidecar_entry("pulls", "kl-sidecar:absent"))[0] == 200
    assert inject(cluster, pod, sidecar_entry("never", "kl-sidecar:absent", imagePullPolicy="Never"))[0] == 200
    root = {**SIDECAR_CONTEXT, "runAsNonRoot": True}
    assert inject(cluster, pod, sidecar_entry("root", securityContext=root))[0] == 200
    eventually("the pull fails", lambda: reason("pulls") == "ImagePullBackOff", 3)
    assert reason("never") == "ErrImageNeverPull" and reason("root") == "CreateContainerConfigError"
    cluster.nodes.absent_images.clear()
    eventually("it starts by itself once the image is there", lambda: "running" in state_of(cluster, pod, "pulls"), 3)


def test_rights(small_cluster, pod, dev, make_kubectl):
    cluster = small_cluster
    assert dev.run("auth", "can-i", "create", "pods", "--subresource=exec").stdout == "yes\n"
    assert dev.run("auth", "can-i", "create", "pods/exec").stdout == "no\n"
    assert dev.run("auth", "can-i", "delete", "pods").returncode == 1
    assert "services" in dev.ok("auth", "can-i", "--list")
    assert dev.ok("exec", pod, "--", "echo", "hello") == "hello\n"
    ran = dev.run("delete", "pod", pod)
    text = f'pods "{pod}" is forbidden: User "dev" cannot delete resource "pods" in API group "" in the namespace "demo"'
    assert ran.returncode == 1 and f"Error from server (Forbidden): {text}" in ran.stderr
    ran = dev.run("get", "namespaces")
    assert 'cannot list resource "namespaces" in API group "" at the cluster scope' in ran.stderr
    without = [rule for rule in RULES if rule["resources"] != ["pods/exec"]]
    create = {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create"]}
    old = make_kubectl(cluster.user("old", [*without, create]))
    big = "x" * 300_000
    assert old.ok("exec", "-i", pod, "--", "cat", input=big) == big, "by SPDY"
    ran = old.run("exec", pod, "--", "sh", "-c", "echo err >&2; exit 7")
    assert (ran.returncode, ran.stderr) == (7, "err\ncommand terminated with exit code 7\n")
    methods = [
        asked["method"] for asked in cluster.api.requests if asked.get("user") == "old" and asked["subresource"] == "exec"
    ]
    assert methods == ["GET", "POST"] * 2
    ran = make_kubectl(cluster.user("eve", without)).run("exec", pod, "--", "true")
    assert ran.returncode == 1
    assert (
        f'pods "{pod}" is forbidden: User "eve" cannot create resource "pods/exec" in API group "" in the namespace "demo"'
        in ran.stderr
    )


def test_exec(cluster, kubectl, pod):
    ran = kubectl.run("exec", pod, "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (ran.returncode, ran.stdout) == (7, "out\n")
    assert ran.stderr == "err\ncommand terminated with exit code 7\n"
    big = "x" * 3_000_000
    assert kubectl.ok("exec", "-i", pod, "--", "cat", input=big) == big
    ran = kubectl.run("exec", pod, "-c", "nothing", "--", "true")
    assert ran.returncode == 1 and "container nothing is not valid for pod" in ran.stderr
    ran = kubectl.run("exec", pod, "--", "/nothing")
    assert ran.returncode == 1 and "Internal error occurred: error executing command in container" in ran.stderr
    assert inject(cluster, pod, sidecar_entry(args=["nothing"]))[0] == 200
    eventually("a container has ended", lambda: "terminated" in state_of(cluster, pod, "kl-sidecar-1"), cluster.READY)
    ran = kubectl.run("exec", pod, "-c", "kl-sidecar-1", "--", "/kl-sidecar", "holders")
    assert ran.returncode == 1 and 'unable to upgrade connection: container not found ("kl-sidecar-1")' in ran.stderr


def test_exec_is_kept_alive_and_can_be_cut(small_cluster, kubectl, pod):
    child = kubectl.begin("exec", "-i", pod, "--", "sh", "-c", "echo begun; cat; echo over", stdin=subprocess.PIPE)
    assert child.stdout.readline() == "begun\n"
    (stream,) = small_cluster.api.streams.find(subresource="exec")
    eventually("kubectl's ping is answered", lambda: stream.socket.pings, 10)
    child.stdin.write("through\n")
    child.stdin.flush()
    assert child.stdout.readline() == "through\n"
    stream.cut()
    _, said = child.communicate(timeout=60)
    assert child.returncode == 1 and said


def test_logs(cluster, kubectl, pod):
    assert kubectl.ok("logs", pod) == "ready\n"
    assert kubectl.ok("logs", pod, "--tail=0") == ""
    child = kubectl.begin("logs", "-f", pod)
    assert child.stdout.readline() == "ready\n"
    cluster.delete_pod(pod)
    child.communicate(timeout=60)
    assert child.returncode == 0


def test_through_a_proxy(cluster, kubectl, pod, folder, closing):
    """As a program speaks to it that starts one `kubectl proxy`: answers, watches and exec by one socket."""
    path = folder / "proxy"
    child = closing(_Ending(kubectl.begin("proxy", f"--unix-socket={path}", "--reject-paths=^$", "--accept-paths=.*"))).child
    assert "Starting to serve" in child.stdout.readline()

    def ask(*words):
        command = ["curl", "-s", "--unix-socket", str(path), *words]
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60).stdout

    there = "http://localhost" + cluster.path("pods")
    assert pod in ask(there)
    lines = ask("-N", f"{there}?{WHOLE}&timeoutSeconds=1").splitlines()
    assert [json.loads(line)["type"] for line in lines[:2]] == ["ADDED", "BOOKMARK"]
    upgrade = ["-H", "Connection: Upgrade", "-H", "Upgrade: websocket", "-H", "Sec-WebSocket-Version: 13"]
    upgrade += ["-H", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "-H", "Sec-WebSocket-Protocol: v5.channel.k8s.io"]
    said = ask("-i", "-m", "10", "--output", "-", *upgrade, f"{there}/{pod}/exec?command=echo&command=hello&stdout=true")
    assert "101 Switching Protocols" in said and "hello" in said and '"status":"Success"' in said.replace('": "', '":"')


def test_ordered_faults(small_cluster, kubectl):
    faults = small_cluster.api.faults
    for failure, text in (
        (failures.refused("services", "x", "no"), 'services "x" is forbidden: no'),
        (failures.conflict("services", "x"), "the object has been modified"),
        (
            failures.invalid("Service", "x", [("spec", "FieldValueInvalid", "Invalid value: no")]),
            'Service "x" is invalid: spec',
        ),
        (failures.internal("no"), "Internal error occurred: no"),
    ):
        faults.add(failure, verb="list", resource="services", times=1)
        ran = kubectl.run("get", "services")
        assert ran.returncode == 1 and text in ran.stderr
        assert kubectl.run("get", "services").returncode == 0
    faults.add(delay=1, verb="list", resource="services", times=1)
    began = time.monotonic()
    kubectl.ok("get", "services")
    assert time.monotonic() - began >= 1
    faults.add(cut=True, verb="list", resource="services")
    ran = kubectl.run("get", "services")
    assert ran.returncode == 1 and "EOF" in ran.stderr


def test_an_expired_login(small_cluster, pod, dev):
    small_cluster.expire("dev")
    ran = dev.run("get", "pods")
    assert ran.returncode == 1 and "You must be logged in to the server" in ran.stderr
    small_cluster.expire("dev", False)
    assert pod in dev.ok("get", "pods", "-o", "name")


def test_the_server_away_and_back(small_cluster, kubectl, pod, closing):
    lines = Lines(kubectl, closing, f"{small_cluster.path('pods')}?{WHOLE}")
    assert lines.next()["type"] == "ADDED"
    small_cluster.server.stop()
    assert lines.child.wait(60) == 1
    ran = kubectl.run("get", "pods")
    assert ran.returncode == 1 and "connection" in ran.stderr and "refused" in ran.stderr
    small_cluster.server.start()
    assert small_cluster.who("api-server") == [f"{pod} original"]
    assert pod in kubectl.ok("get", "pods", "-o", "name")
