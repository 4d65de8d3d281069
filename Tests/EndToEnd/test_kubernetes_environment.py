"""`kl` and namespaces of a cluster: finding, connecting, logging in, and seeing what changes there."""

import contextlib
import json
import os
import pathlib
import signal
import textwrap

import pytest
import yaml

from harness.waiting import eventually
from kubernetes import failures
from kubernetes.team import RULES, proxies

READ = [{"apiGroups": [""], "resources": ["services", "pods"], "verbs": ["get", "list", "watch"]}]


def kill(proxies):
    for process, _, _ in proxies:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def services(developer):
    return {one["name"]: one for one in developer.ok("env", "status", "-o", "json").json["services"]}


def sidecars(developer):
    return next((one["sidecars"] for one in developer.intercepts() if one["isOwn"]), [])


def test_what_is_found_and_connected_to(cluster, join_cluster):
    cluster.create("api-server", replicas=2)
    dev = join_cluster(rules=READ, connect=False)
    name = f"{cluster.context}/{cluster.namespace}"
    listed = {one["name"]: one for one in dev.ok("env", "list", "-o", "json").json["environments"]}
    # No right to list namespaces: only the context's own is known, and nobody has asked for it.
    assert (listed[name]["kind"], listed[name]["state"]) == ("kubernetes", "unknown")
    dev.ok("env", "connect", name)
    status = dev.ok("env", "status", "-o", "json").json
    assert (status["environment"], status["kind"], status["state"]) == (name, "kubernetes", "up")
    assert services(dev)["api-server"]["replicas"] == 2
    eventually("no kubectl is left", lambda: not proxies(dev), 3)


def test_a_connect_that_fails_leaves_the_connection_of_before(cluster, join_cluster):
    cluster.create("api-server")
    dev = join_cluster()
    before = dev.ok("env", "status", "-o", "json").json["environment"]
    ran = dev.run("env", "connect", "--context", cluster.context, "--namespace", "another-one")
    assert ran.code != 0, ran
    status = dev.ok("env", "status", "-o", "json").json
    assert (status["environment"], status["isConnected"]) == (before, True)


def test_who_may_list_namespaces_sees_them(small_cluster, join_cluster):
    small_cluster.create_namespace("shop")
    dev = join_cluster(kubeconfig=small_cluster.kubeconfig, connect=False)
    listed = {one["name"]: one["state"] for one in dev.ok("env", "list", "-o", "json").json["environments"]}
    assert listed["small/demo"] == listed["small/shop"] == "up"
    # Those of the cluster itself are left out.
    assert "small/kube-system" not in listed


def test_names_that_lead_nowhere(small_cluster, join_cluster):
    dev = join_cluster(kubeconfig=small_cluster.kubeconfig, connect=False)
    ran = dev.run("env", "connect", "--context", "smal")
    assert (ran.code, ran.error) == (1, "kl: kubectl has no context 'smal'. Did you mean 'small'? See: kubectl config get-contexts\n")
    ran = dev.run("env", "connect", "--namespace", "nowhere")
    assert ran.code == 1
    assert ran.error.startswith("kl: there is no namespace 'nowhere' in the cluster of context 'small'. See: kubectl")
    ran = dev.run("env", "connect", "--namespace", "Not_A_Name")
    assert ran.code == 1 and "can't be a namespace's name" in ran.error
    small_cluster.server.stop()
    ran = dev.run("env", "connect", "--namespace", "demo")
    assert ran.code == 1 and f"the API server at {small_cluster.server.url} can't be reached" in ran.error
    assert dev.run("env", "status", "-o", "json").json["isConnected"] is False


def test_without_kubectl(small_cluster, join_cluster, folder):
    (folder / "empty").mkdir()
    dev = join_cluster(kubeconfig=small_cluster.kubeconfig, connect=False, PATH=str(folder / "empty"))
    ran = dev.run("env", "connect", "--namespace", "demo")
    assert ran.code == 1 and ran.error.startswith("kl: there is no kubectl program in PATH")
    assert dev.ok("env", "list").out


def test_what_can_and_cannot_be_intercepted(cluster, join_cluster):
    cluster.create("api-server")
    cluster.create_service("elsewhere", type="ExternalName", externalName="db.example", selector={}, ports={"http": (80, 80)})
    cluster.create_service("by-hand", selector={})
    cluster.create_pod("lonely")
    dev = join_cluster()
    found = services(dev)
    assert {"api-server", "elsewhere", "by-hand", "pod/lonely"} <= set(found)
    assert found["pod/lonely"]["ports"] == [{"port": 8080, "target": 8080, "name": "http", "transport": "tcp"}]
    for name, words in (("elsewhere", "is only another name of a host (db.example)"), ("by-hand", "has no selector")):
        ran = dev.run("intercept", "start", name, "-p", "80:3000")
        assert ran.code == 1 and words in ran.error


def test_a_lacking_right_is_named(small_cluster, join_cluster):
    small_cluster.create("api-server")
    few = [{**READ[0], "resources": ["services"]}]
    dev = join_cluster(rules=few, connect=False)
    # All the same they are connected, so that a doctor can look.
    ran = dev.run("env", "connect", "--namespace", "demo")
    assert ran.code == 1 and 'cannot list resource "pods"' in ran.error
    doctor = {one["name"]: one for one in dev.run("doctor", "-o", "json").json["checks"]}
    assert doctor["rights"]["state"] == "failed"
    assert "you may not patch services, get pods, list pods, watch pods, get pods/log" in doctor["rights"]["text"]
    assert "get services" not in doctor["rights"]["text"]
    assert doctor["kubectl"]["state"] == doctor["cluster"]["state"] == doctor["clocks"]["state"] == "ok"


def test_a_namespace_that_refuses_sidecars_is_told_by_doctor(small_cluster, join_cluster):
    small_cluster.create_namespace("strict", enforce="restricted")
    dev = join_cluster(kubeconfig=small_cluster.kubeconfig, connect=False)
    dev.ok("env", "connect", "small/strict")
    doctor = {one["name"]: one for one in dev.run("doctor", "-o", "json").json["checks"]}
    assert doctor["rights"]["state"] == "ok" and doctor["pod security"]["state"] == "failed"
    assert "restricted" in doctor["pod security"]["text"]


def test_a_context_that_names_another_server_by_now(small_cluster, join_cluster):
    dev = join_cluster()
    before = pathlib.Path(dev.kubeconfig).read_text()
    pathlib.Path(dev.kubeconfig).write_text(before.replace(small_cluster.server.url, "https://127.0.0.1:1"))
    ran = dev.run("env", "status")
    assert ran.code == 1
    assert f"names the API server https://127.0.0.1:1 now, and you connected to {small_cluster.server.url}" in ran.error
    pathlib.Path(dev.kubeconfig).write_text(before)
    dev.ok("env", "status")


def test_an_expired_login_and_its_end(team, small_cluster):
    """The tunnel goes on; the intercept is Degraded with the reason, and Active again by itself."""
    small_cluster.create("api-server")
    ada = team.join()
    team.start(ada)
    small_cluster.expire("ada")
    # A watch that is open isn't ended by that.
    for stream in small_cluster.api.streams.find(verb="watch"):
        stream.cut()
    eventually("the intercept is Degraded", lambda: ada.phase("api-server") == "Degraded", 6)
    reason = next(one["reason"] for one in ada.intercepts() if one["isOwn"])
    assert "doesn't take your login: Unauthorized" in reason and "kubectl --context small --namespace demo get pods" in reason
    assert small_cluster.who("api-server") == ["ada"]
    small_cluster.expire("ada", False)
    eventually("it is Active again", lambda: ada.phase("api-server") == "Active", 6)


def test_a_token_that_was_replaced(team, small_cluster):
    """As `oc login` does it: kubectl proxy reads the configuration once, so another one is started."""
    small_cluster.create("api-server")
    ada = team.join()
    team.start(ada)
    path = pathlib.Path(ada.kubeconfig)
    user = small_cluster.api.access.users["ada"]
    old, user.token = user.token, "another-token"
    for stream in small_cluster.api.streams.find(verb="watch"):
        stream.cut()
    eventually("the intercept is Degraded", lambda: ada.phase("api-server") == "Degraded", 6)
    path.write_text(path.read_text().replace(old, user.token))
    eventually("it is Active again", lambda: ada.phase("api-server") == "Active", 6)


class LoginProgram:
    """Logs in, if the shell has the variable for it; as those of clouds do."""

    def __init__(self, kubeconfig, folder):
        self.path, self.kubeconfig = folder / "log-in", pathlib.Path(kubeconfig)
        whole = yaml.safe_load(self.kubeconfig.read_text())
        user = whole["users"][0]["user"]
        self.token = user.pop("token")
        user["exec"] = {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": str(self.path),
            "interactiveMode": "IfAvailable",
        }
        self.kubeconfig.write_text(yaml.safe_dump(whole))

    def want(self, secret):
        answer = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": self.token}}
        self.path.write_text(
            textwrap.dedent(
                f"""\
                #!/bin/sh
                if [ "$LOGIN_SECRET" = {secret} ]; then echo '{json.dumps(answer)}'; exit; fi
                echo "The session has expired. Run: log-in --again" >&2
                exit 3
                """
            )
        )
        self.path.chmod(0o700)


def test_the_shells_variables_reach_the_daemon_and_no_file(team, small_cluster, folder):
    small_cluster.create("api-server")
    kubeconfig = small_cluster.user("ada", RULES)
    program = LoginProgram(kubeconfig, folder)
    program.want("first-secret")
    ada = team.join(kubeconfig=kubeconfig, connect=False)
    ran = ada.run("env", "connect", "--namespace", "demo")
    assert ran.code == 1
    assert "failed with exit code 3: The session has expired. Run: log-in --again" in ran.error
    first, second = {"LOGIN_SECRET": "first-secret"}, {"LOGIN_SECRET": "second-secret"}
    ada.ok("env", "connect", "--namespace", "demo", **first)
    ada.ok(*team.words(ada), **first)
    daemon = ada.daemon()
    # What the daemon has by itself is no use any more.
    program.want("second-secret")
    kill(proxies(ada))
    eventually("the intercept is Degraded", lambda: ada.phase("api-server") == "Degraded", 6)
    ada.ok("intercept", "stop", "api-server", **second)
    ada.ok(*team.words(ada), **second)
    assert ada.daemon() == daemon
    assert small_cluster.who("api-server") == ["ada"]
    for path in ada.home.rglob("*"):
        if path.is_file():
            assert b"-secret" not in path.read_bytes(), path
    ada.ok("intercept", "stop", "api-server", **second)


def test_nothing_is_left_of_a_daemon_that_is_killed(team, small_cluster):
    small_cluster.create("api-server")
    ada = team.join()
    team.start(ada)
    assert proxies(ada)
    os.kill(ada.daemon(), signal.SIGKILL)
    eventually("its kubectl has ended", lambda: not proxies(ada), 3)


def test_a_killed_kubectl_is_replaced(team, small_cluster):
    small_cluster.create("api-server")
    ada = team.join()
    team.start(ada)
    kill(proxies(ada))
    small_cluster.scale("api-server", 2)
    eventually("the new pod is intercepted", lambda: small_cluster.who("api-server") == ["ada", "ada"], 6)
    assert ada.phase("api-server") == "Active"


def break_by_cut(cluster, stream):
    stream.cut()


def break_by_end(cluster, stream):
    stream.end()


def break_by_410(cluster, stream):
    stream.end(failures.Failure(410, "Expired", "too old resource version: 1 (2)"))


@pytest.mark.parametrize("has_watch_lists", (True, False), ids=("watch-list", "list-and-watch"))
@pytest.mark.parametrize("how", (break_by_cut, break_by_end, break_by_410), ids=("cut", "end", "410"))
def test_a_watch_that_ends_misses_nothing(team, small_cluster, how, has_watch_lists):
    """A pod comes while no watch runs."""
    small_cluster.api.has_watch_lists = has_watch_lists
    small_cluster.create("api-server")
    ada = team.join()
    team.start(ada)
    assert len(small_cluster.api.streams.find(verb="watch")) == 2
    refusal = small_cluster.api.faults.add(failures.Failure(500, "InternalError", "no"), verb="watch", times=4)
    for stream in small_cluster.api.streams.find(verb="watch"):
        how(small_cluster, stream)
    small_cluster.scale("api-server", 2)
    eventually("the new pod is intercepted", lambda: small_cluster.who("api-server") == ["ada", "ada"], 6)
    eventually("both are watched again", lambda: len(small_cluster.api.streams.find(verb="watch")) == 2, 6)
    assert refusal.hits


def test_a_selector_that_changes(team, small_cluster):
    small_cluster.create("api-server")
    small_cluster.create_deployment("other")
    ada = team.join()
    team.start(ada)
    path = small_cluster.path("services", "api-server")
    small_cluster.client.patch(path, {"spec": {"selector": {"app": "other"}}})
    eventually("the other pod is intercepted", lambda: small_cluster.who("api-server") == ["ada"], 6)
    assert [one["name"] for one in sidecars(ada)] == small_cluster.names("other")
