"""Intercepts on Kubernetes: nothing is restarted, no request fails. On the small cluster, or any other."""

import base64
import json
import os
import threading

import pytest
from harness.ports import free_port
from harness.udp import free_datagram_port, start_server
from harness.udp import who as datagrams_to
from harness.waiting import eventually
from harness.web import WebServer
from kubernetes.load import between, now
from kubernetes.team import ANNOTATION, RULES, SIDECAR_IMAGE, rules

# The exit code where somebody else has it.
HELD = 5


def test_the_whole_day(team, cluster):
    """Start, scale, a pod that is deleted, a roll-out, stop: under load, and not one request fails or comes to the wrong side."""
    # As most programs do, it takes a while until it serves: the sidecar, and the tunnel to it, are there before.
    cluster.create("api-server", 3, prestop=1, slow_start=2)
    before = team.facts()
    ada = team.join()
    load = team.load()
    team.start(ada)
    active = now()
    assert ada.phase("api-server") == "Active"
    assert team.facts() == before
    (holder,) = team.record()
    assert holder["kind"] == "intercept" and holder["ports"] == [80]
    cluster.answers("api-server", "ada", 3)
    load.under_way()
    cluster.scale("api-server", 5)
    cluster.answers("api-server", "ada", 5)
    load.under_way()
    gone = cluster.names("api-server")[0]
    cluster.delete_pod(gone)
    eventually("it is gone", lambda: cluster.pod(gone) is None, cluster.READY)
    cluster.wait_ready("api-server", 5)
    cluster.answers("api-server", "ada", 5)
    cluster.roll_out("api-server")
    cluster.answers("api-server", "ada", 5)
    load.under_way()
    stopping = now()
    ada.ok("intercept", "stop", "api-server")
    stopped = now()
    team.is_released()
    load.under_way()
    outcomes = load.finish()
    said = between(outcomes, active, stopping)
    assert set(said) == {"ada"}, said
    assert all(answer.endswith(" original") for answer in between(outcomes, stopped))


def test_the_same_sidecars_serve_again(team, cluster):
    """Entries of a pod's specification can't be removed, so that many starts must add few."""
    cluster.create("api-server", 2)
    ada, grace = team.join(), team.join("grace")
    for developer in (ada, ada, grace, ada):
        team.start(developer)
        cluster.answers("api-server", developer.name, 2)
        developer.ok("intercept", "stop", "api-server")
        team.is_released()
    assert len(cluster.sidecars("api-server")) == 2


def test_a_second_start_runs_no_program_in_the_pods(team, small_cluster, kubectl):
    """The sidecars go on accepting a key for a while. If one has forgotten it, it is told again, and nobody notices."""
    cluster = small_cluster
    cluster.create("api-server", 3)
    ada = team.join()
    team.start(ada)
    ada.ok("intercept", "stop", "api-server")
    team.is_released()

    def programs():
        return [asked for asked in cluster.api.requests if asked.get("subresource") == "exec"]

    before = len(programs())
    team.start(ada)
    cluster.answers("api-server", "ada", 3)
    (holder,) = team.record()
    ada.ok("intercept", "stop", "api-server")
    team.is_released()
    assert len(programs()) == before
    (pod, sidecar, _), *_ = cluster.sidecars("api-server")
    left = kubectl.ok("exec", pod, "--container", sidecar, "--", "/kl-sidecar", "leave", holder["key"])
    assert '"left":true' in left, left
    before = len(programs())
    team.start(ada)
    cluster.answers("api-server", "ada", 3)
    assert {asked["name"] for asked in programs()[before:]} == {pod}
    ada.ok("intercept", "stop", "api-server")


def test_target_ports_that_differ_from_pod_to_pod(team, cluster):
    cluster.create_service("api-server", {"web": (80, "http"), "admin": (81, 9000)})
    cluster.create_pod("one", "api-server", ports={"http": 8081, "admin": 9000})
    cluster.create_pod("two", "api-server", ports={"http": 8082, "admin": 9000})
    ada = team.join()
    team.start(ada)

    def who(port):
        return sorted(set(cluster.who("api-server", port)))

    eventually("both pods answer as ada", lambda: who("web") == ["ada"], 3)
    assert who("admin") == ["one original", "two original"]
    (own,) = ada.intercepts()
    assert [port["service"] for port in own["ports"]] == [80]
    ada.ok("intercept", "stop", "api-server")
    eventually("the pods answer themselves", lambda: who("web") == ["one original", "two original"], 3)


def test_a_stateful_set_behind_a_headless_service(team, cluster):
    cluster.create_service("db", clusterIP="None")
    cluster.create_deployment("db", 2, resource="statefulsets")
    ada = team.join()
    team.start(ada, "db")
    cluster.answers("db", "ada", 2)
    uid = cluster.pod("db-0")["metadata"]["uid"]
    cluster.delete_pod("db-0")
    eventually(
        "a new db-0", lambda: (cluster.pod("db-0") or {"metadata": {"uid": uid}})["metadata"]["uid"] != uid, cluster.READY
    )
    cluster.wait_ready("db", 2)
    cluster.answers("db", "ada", 2)
    ada.ok("intercept", "stop", "db")
    team.is_released("db")


def test_another_developer_is_refused_and_may_take_over(team, cluster):
    cluster.create("api-server", 2)
    ada, grace = team.join(), team.join("grace")
    team.start(ada)
    ran = grace.run(*team.words(grace))
    assert ran.code == HELD and "'api-server' is intercepted by" in ran.error and "--force" in ran.error, ran
    cluster.answers("api-server", "ada", 2)
    team.start(grace, "api-server", "--force")
    cluster.answers("api-server", "grace", 2)
    eventually("ada's has failed", lambda: (ada.own() or {}).get("phase") == "Failed", 5)
    ada.ok("intercept", "stop", "api-server")
    cluster.answers("api-server", "grace", 2)
    grace.ok("intercept", "stop", "api-server")
    team.is_released()


def test_a_service_that_has_the_same_pods(team, cluster):
    """The unit of conflict is a pod's port, by whichever Service it is reached."""
    cluster.create("api-server")
    cluster.create_service("other", selector={"app": "api-server"})
    ada, grace = team.join(), team.join("grace")
    team.start(ada)
    ran = grace.run(*team.words(grace, "other"))
    assert ran.code == HELD and "is intercepted by" in ran.error, ran
    assert not team.record("other")
    cluster.answers("other", "ada")


def test_two_services_of_one_developer(team, cluster):
    """Both lead to the same pods, to different ports of theirs. A start that is refused leaves the others alone."""
    cluster.create_deployment("api-server", 2, ports={"http": 8080, "admin": 9090})
    cluster.create_service("api-server", {"http": (80, 8080)})
    cluster.create_service("admin", {"admin": (81, 9090)}, {"app": "api-server"})
    cluster.create_service("other", {"http": (80, 8080)}, {"app": "api-server"})
    ada = team.join()
    team.start(ada)
    team.start(ada, "admin", port=81)
    cluster.answers("api-server", "ada", 2)
    cluster.answers("admin", "ada", 2)
    ran = ada.run(*team.words(ada, "other"))
    assert ran.code == HELD and "kl intercept stop api-server" in ran.error, ran
    assert [ada.phase(name) for name in ("api-server", "admin")] == ["Active", "Active"]
    assert len(cluster.sidecars("api-server")) == 2
    ada.ok("intercept", "stop", "api-server")
    cluster.answers_original("api-server")
    cluster.answers("admin", "ada", 2)
    assert ada.phase("admin") == "Active"
    ada.ok("intercept", "stop", "admin")
    team.is_released("admin")


def test_who_is_seen_through_another_service(team, cluster):
    cluster.create("api-server")
    cluster.create_service("other", selector={"app": "api-server"})
    ada, grace = team.join(), team.join("grace")
    team.start(ada)
    assert "(you), through api-server" in ada.ok("env", "status").out
    assert "through api-server" in grace.ok("env", "status").out
    assert [one["service"] for one in grace.intercepts()] == ["api-server"]
    ran = ada.run("intercept", "stop", "other")
    assert ran.code != 0 and "kl intercept stop api-server" in ran.error, ran
    team.start(grace, "other", "--force")
    cluster.answers("api-server", "grace")
    # Not the original.
    stopped = ada.ok("intercept", "stop", "api-server")
    assert "answers from the environment again" not in stopped.out + stopped.error, stopped
    cluster.answers("api-server", "grace")
    grace.ok("intercept", "stop", "other")
    team.is_released()


def test_what_somebody_wrote_into_the_record(team, cluster):
    """The sidecars decide: it hides nobody, ends no intercept, and keeps no pod from its sidecar."""
    cluster.create("api-server")
    ada, grace = team.join(), team.join("grace")
    team.start(ada)

    def write(text):
        cluster.client.patch(cluster.path("services", "api-server"), {"metadata": {"annotations": {ANNOTATION: text}}})

    write("[[[")
    listed = grace.ok("intercept", "list")
    assert "api-server" in listed.out and "can't be read" in listed.error, listed
    cluster.scale("api-server", 2)
    cluster.answers("api-server", "ada", 2)
    key = base64.b64encode(os.urandom(32)).decode()
    made_up = {"key": key, "label": "eve@desk", "kind": "intercept", "ports": [80], "since": now(), "lastSeen": now()}
    write(json.dumps({"holders": [made_up], "version": 1}))
    eventually("her entry is there again", lambda: len(team.record()) == 2, 5)
    assert ada.own()["phase"] == "Active"
    cluster.answers("api-server", "ada", 2)
    # Her own key, at a Service that sorts behind hers.
    cluster.create_service("zz", selector={"app": "api-server"})
    (entry,) = [entry for entry in team.record() if entry["key"] != key]
    text = json.dumps({"holders": [entry], "version": 1})
    cluster.client.patch(cluster.path("services", "zz"), {"metadata": {"annotations": {ANNOTATION: text}}})
    listed = {one["service"] for one in grace.intercepts() if one["publicKey"] == entry["key"]}
    assert "api-server" in listed, listed
    assert ada.own()["service"] == "api-server"
    ada.ok("intercept", "stop", "api-server")
    write(None)
    team.is_released()


@pytest.mark.deadline(600)
def test_two_who_start_at_once(team, cluster):
    cluster.create("api-server", 2)
    developers = [team.join(), team.join("grace")]
    for _ in range(50 if os.environ.get("KL_LONG") == "1" else 5):
        ran = {}

        def start(developer):
            ran[developer.name] = developer.run(*team.words(developer))

        threads = [threading.Thread(target=start, args=(developer,)) for developer in developers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        winners = [name for name, one in ran.items() if one.code == 0]
        assert len(winners) == 1, ran
        cluster.answers("api-server", winners[0], 2)
        next(developer for developer in developers if developer.name == winners[0]).ok("intercept", "stop", "api-server")
        team.is_released()


def without(verb, resource):
    """The rules of an ordinary developer, less one right."""
    kept = [{**rule, "verbs": [v for v in rule["verbs"] if (v, resource) != (verb, rule["resources"][0])]} for rule in RULES]
    return [rule for rule in kept if rule["verbs"]]


# What each right is for; without it an error names it.
NEEDED = [
    ("get", "services"), ("list", "services"), ("patch", "services"), ("list", "pods"), ("get", "pods/log"),
    ("create", "pods/exec"), ("patch", "pods/ephemeralcontainers"),
]  # fmt: skip


@pytest.mark.parametrize("verb, resource", NEEDED, ids=lambda word: word.replace("/", "-"))
def test_without_one_right(team, cluster, verb, resource):
    cluster.create("api-server")
    if resource == "pods/exec":
        # It is needed where a sidecar runs already.
        grace = team.join("grace")
        team.start(grace)
        grace.ok("intercept", "stop", "api-server")
    ada = team.join(rules=without(verb, resource), connect=False)
    ran = ada.run("env", "connect", "--context", cluster.context, "--namespace", cluster.namespace)
    if ran.code == 0:
        ran = ada.run(*team.words(ada))
    assert ran.code == 1, f"it works without: {ran}"
    assert verb in ran.error and resource in ran.error, ran
    if cluster.is_small:
        refused = [asked for asked in cluster.api.requests if asked.get("user") == "ada" and asked["subresource"] == "exec"]
        # By WebSocket once, and by a kubectl, which asks in two ways.
        assert len(refused) <= 3, "it goes on asking for what it may not do"
    assert not team.record()
    team.is_released()


def test_the_role_for_one_service(team, cluster):
    """It can't list Services, nor look at others."""
    cluster.create("api-server")
    cluster.create("other")
    ada = team.join(rules=rules("role-one-service"))
    shown = ada.ok("env", "status").out
    assert "api-server" in shown and "other" not in shown, shown
    team.start(ada)
    cluster.answers("api-server", "ada")
    ran = ada.run(*team.words(ada, "other"))
    assert ran.code == 4 and "other" in ran.error, ran
    ada.ok("intercept", "stop", "api-server")
    team.is_released()


def test_without_the_right_to_a_websocket(team, cluster):
    """A WebSocket begins with a GET. Who has only `create`, which suffices for `kubectl exec`, is served by that."""
    cluster.create("api-server")
    grace = team.join("grace")
    team.start(grace)
    grace.ok("intercept", "stop", "api-server")
    ada = team.join(rules=without("get", "pods/exec"))
    ada.ok(*team.words(ada), "--carrier", "exec")
    cluster.answers("api-server", "ada")
    ada.ok("intercept", "stop", "api-server")
    team.is_released()


@pytest.mark.parametrize("level", ["baseline", "restricted"])
def test_pod_security(team, cluster, join_cluster, level):
    name = f"{cluster.namespace}-{level}"
    cluster.create_namespace(name, enforce=level)
    place = cluster.in_namespace(name)
    safe = {"allowPrivilegeEscalation": False, "runAsNonRoot": True, "runAsUser": 1000, "capabilities": {"drop": ["ALL"]}}
    place.create("api-server", context={**safe, "seccompProfile": {"type": "RuntimeDefault"}})
    ada = team.join(kubeconfig=cluster.user("ada", RULES, [name]), connect=False)
    ada.ok("env", "connect", "--context", cluster.context, "--namespace", name)
    ran = ada.run(*team.words(ada))
    assert ran.code == 1 and level in ran.error and "NET_ADMIN" in ran.error, ran
    assert not place.sidecars("api-server")
    assert ANNOTATION not in (place.service("api-server")["metadata"].get("annotations") or {})
    assert ada.phase("api-server") is None


def test_services_that_cannot_be_intercepted(team, cluster):
    cluster.create_service("elsewhere", type="ExternalName", externalName="example.org", selector={})
    cluster.create_service("by-hand", selector={})
    ada = team.join()
    cluster.create_service("on-the-node")
    cluster.create_pod("on-the-node", wait=False, pod={"hostNetwork": True, "nodeSelector": {"no": "node"}})
    cases = {"elsewhere": "example.org", "by-hand": "selector", "nothing": "nothing", "on-the-node": "network"}
    for name, word in cases.items():
        ran = ada.run(*team.words(ada, name))
        assert ran.code in (1, 4) and word in ran.error, ran
        assert ada.phase(name) is None


def test_pods_that_refuse_root(team, cluster):
    """runAsNonRoot of the pod doesn't keep the sidecar from running."""
    cluster.create("api-server", pod={"securityContext": {"runAsNonRoot": True, "runAsUser": 1000}})
    ada = team.join()
    team.start(ada)
    cluster.answers("api-server", "ada")
    ada.ok("intercept", "stop", "api-server")
    team.is_released()


def test_a_udp_service(team, cluster, processes):
    cluster.create_service("dns", {"dns-udp": (53, 5353), "http": (80, 8080)})
    cluster.create_deployment("dns", 2, udp=(5353,))
    ada = team.join()
    mine = free_datagram_port()
    start_server(processes, "ada", mine, "127.0.0.1")

    def comes_to(names):
        def check():
            return sorted(datagrams_to(place, timeout=0.5) or "" for place in cluster.endpoints("dns", "dns-udp")) == sorted(
                names
            )

        eventually("datagrams come to the right side", check, 3, 0.05)

    pods = cluster.names("dns")
    comes_to(pods)
    ada.ok("intercept", "start", "dns", "-p", f"53:{mine}/udp", "--sidecar-image", SIDECAR_IMAGE)
    comes_to(["ada", "ada"])
    assert sorted(cluster.who("dns", "http")) == sorted(f"{name} original" for name in pods)
    ada.ok("intercept", "stop", "dns")
    comes_to(pods)


def test_nothing_listens_on_the_laptop(team, cluster):
    cluster.create("api-server")
    ada = team.join()
    words = team.words(ada)
    port = free_port()
    words[words.index("-p") + 1] = f"80:{port}"
    ada.ok(*words)
    cluster.answers_original("api-server")
    team.servers["late"] = team._closing(WebServer("late", port=port))
    cluster.answers("api-server", "late")
    ada.ok("intercept", "stop", "api-server")
    team.is_released()


def test_what_is_left_in_pods_is_counted(team, small_cluster):
    cluster = small_cluster
    cluster.create("api-server")
    ada = team.join()

    def entries():
        (service,) = ada.ok("env", "status", "-o", "json").json["services"]
        return service.get("sidecarEntries")

    assert entries() is None
    team.start(ada)
    assert entries() == {"all": 1, "ended": 0}
    assert "Left over" not in ada.ok("env", "status").out
    ada.ok("intercept", "stop", "api-server")
    (pod, sidecar, _), *_ = cluster.sidecars("api-server")
    cluster.kill_container(pod, sidecar)
    eventually("its end is known", lambda: entries() == {"all": 1, "ended": 1}, 5)
    assert "Left over: an ended sidecar's entry" in ada.ok("env", "status").out


def test_another_image_while_a_key_lingers(team, small_cluster):
    """A sidecar goes on accepting the key of who has stopped, which needs it no more."""
    cluster = small_cluster
    cluster.create("api-server")
    ada, grace = team.join(), team.join("grace")
    team.start(ada)
    words = team.words(grace)
    words[words.index(SIDECAR_IMAGE)] = "kl-sidecar:other"
    assert grace.run(*words).code == HELD
    ada.ok("intercept", "stop", "api-server")
    team.is_released()
    grace.ok(*words)
    cluster.answers("api-server", "grace")
    assert len(cluster.sidecars("api-server")) == 2
    grace.ok("intercept", "stop", "api-server")
