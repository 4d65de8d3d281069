"""Intercepts on Kubernetes while something is lost: by faults that only the small cluster can have when a test wants it."""

import os
import shutil
import signal
import sys
import time

import pytest
from harness.cli import WEB
from harness.load import who
from harness.ports import free_port
from harness.processes import freeze_whole, kill_whole
from harness.programs import listening
from harness.waiting import eventually
from kubernetes import failures
from kubernetes.controllers import is_ready
from kubernetes.load import between, now
from kubernetes.team import SIDECAR_IMAGE, proxies


def test_an_image_that_the_cluster_lacks(team, small_cluster):
    cluster = small_cluster
    cluster.nodes.absent_images.add("kl-sidecar:absent")
    cluster.create("api-server")
    ada = team.join()
    words = team.words(ada)
    words[words.index(SIDECAR_IMAGE)] = "kl-sidecar:absent"
    ran = ada.run(*words)
    assert ran.code == 1 and "kl-sidecar:absent" in ran.error, ran
    assert cluster.names("api-server")[0] in ran.error, ran
    assert not team.record()
    # What was given up comes to life later, and must not take anything.
    cluster.nodes.absent_images.clear()
    eventually("it runs", lambda: any("running" in state for _, _, state in cluster.sidecars("api-server")), 5)
    cluster.answers_original("api-server")


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "exec"])
def test_the_api_server_goes_away(team, small_cluster, direct):
    """By the direct way nothing is noticed. By exec the originals answer meanwhile."""
    cluster = small_cluster
    cluster.create("api-server", 2)
    ada = team.join()
    flags = [] if direct else ["--carrier", "exec"]
    team.start(ada, "api-server", *flags)
    cluster.answers("api-server", "ada", 2)
    addresses = cluster.endpoints("api-server")
    load = team.load()
    began = now()
    cluster.server.stop()
    load.under_way(100)
    cluster.server.start()
    ended = now()
    cluster.answers("api-server", "ada", 2, aim=10)
    assert cluster.endpoints("api-server") == addresses
    outcomes = load.stop()
    said = between(outcomes, began, ended)
    if direct:
        assert set(said) == {"ada"}, said
    eventually("it is Active", lambda: ada.phase("api-server") == "Active", 5)
    # It follows again.
    cluster.scale("api-server", 3)
    cluster.answers("api-server", "ada", 3)
    ada.ok("intercept", "stop", "api-server")
    team.is_released()


def test_a_way_by_exec_that_falls_silent(team, small_cluster):
    """As when a node's containerd has died: nothing ends, and nothing comes. Clients don't wait for the dead-carrier deadline of 6 s."""
    cluster = small_cluster
    cluster.create("api-server", 2)
    ada = team.join()
    team.start(ada, "api-server", "--carrier", "exec")
    cluster.answers("api-server", "ada", 2)
    load = team.load()
    for stream in cluster.api.streams.find(subresource="exec", user="ada"):
        stream.silence()
    began = now()
    load.under_way(250)
    cluster.answers("api-server", "ada", 2, aim=10)
    outcomes = load.stop()
    # Those that came before the sidecars took the way for silent may have sent their bytes into it.
    during = [outcome for outcome in outcomes if began + 2 < outcome.began]
    assert not [outcome for outcome in during if outcome.failure], during
    assert [outcome for outcome in outcomes if "original" in (outcome.answer or "")], outcomes
    assert max(outcome.took for outcome in during) < 6
    ada.ok("intercept", "stop", "api-server")
    team.is_released()


def test_a_start_that_is_killed_while_its_key_is_admitted(team, small_cluster):
    """What comes of it late must not be believed after the key has left again."""
    cluster = small_cluster
    cluster.create("api-server")
    ada, grace = team.join(), team.join("grace")
    # A sidecar is there that doesn't know her key yet.
    team.start(ada)
    ada.ok("intercept", "stop", "api-server")
    faults = cluster.api.faults
    admission = faults.add(delay=2, subresource="exec", times=1)
    with grace.begin(*team.words(grace)) as begun:
        eventually("its key is being admitted", lambda: admission.hits, 2)
        faults.add(delay=4, verb="patch", resource="services", times=1)
        begun.kill()
    team.start(grace)
    cluster.answers("api-server", "grace")
    grace.ok("intercept", "stop", "api-server")
    team.is_released()


def test_where_only_the_api_server_can_be_reached(team, small_cluster):
    """Pods' addresses lead nowhere from the laptop: the tunnel goes by exec."""
    cluster = small_cluster
    cluster.create("api-server", 2)
    ada = team.join()
    pods = cluster.endpoints("api-server")
    cluster.nodes.network.close_way()
    team.start(ada)
    assert "exec" in ada.ok("intercept", "list").out
    cluster.nodes.network.open_way()
    assert set(cluster.who("api-server")) == {"ada"} and cluster.endpoints("api-server") == pods
    ada.ok("intercept", "stop", "api-server")
    team.is_released()


@pytest.mark.parametrize("fault", ["cut", "end", "expired", "compacted"])
def test_watches_that_end(team, small_cluster, fault):
    cluster = small_cluster
    cluster.create("api-server")
    ada = team.join()
    team.start(ada)
    for stream in cluster.api.streams.find(verb="watch", user="ada"):
        if fault == "cut":
            stream.cut()
        elif fault == "end":
            stream.end()
        elif fault == "expired":
            stream.end(failures.expired(1, 2))
    if fault == "compacted":
        cluster.server.stop()
        cluster.store.compact()
        cluster.server.start()
    cluster.scale("api-server", 3)
    cluster.answers("api-server", "ada", 3)
    ada.ok("intercept", "stop", "api-server")
    team.is_released()


def test_a_server_that_cannot_begin_a_watch_with_a_list(team, small_cluster):
    cluster = small_cluster
    cluster.api.has_watch_lists = False
    cluster.create("api-server")
    ada = team.join()
    team.start(ada)
    cluster.scale("api-server", 2)
    cluster.answers("api-server", "ada", 2)
    ada.ok("intercept", "stop", "api-server")
    team.is_released()


def test_a_login_that_expires(team, small_cluster):
    cluster = small_cluster
    cluster.create("api-server")
    ada = team.join()
    team.start(ada)
    cluster.expire("ada")
    for stream in cluster.api.streams.find(verb="watch", user="ada"):
        stream.cut()

    # What runs goes on; what asks says how it is mended.
    cluster.scale("api-server", 2)

    def own():
        (found,) = ada.intercepts()
        return found

    eventually("it is Degraded, for the login", lambda: own()["phase"] == "Degraded" and "login" in own()["reason"], 10)
    ran = ada.run("env", "status")
    assert "doesn't take your login" in ran.out + ran.error and "kubectl --context small" in ran.out + ran.error, ran
    first = [pod for pod in cluster.names("api-server") if cluster.pod(pod)["spec"].get("ephemeralContainers")]
    assert len(first) == 1
    address = cluster.pod(first[0])["status"]["podIP"]
    assert who((address, 8080)) == "ada"
    cluster.expire("ada", False)
    cluster.answers("api-server", "ada", 2, aim=10)
    eventually("it is Active again", lambda: ada.phase("api-server") == "Active", 10)
    ada.ok("intercept", "stop", "api-server")
    team.is_released()


def test_a_login_that_fails_while_the_watches_go_on(team, small_cluster):
    """The pod that comes is seen, and can't get a sidecar: that is said. What tries anew ends what it tried before."""
    cluster = small_cluster
    cluster.create("api-server")
    ada = team.join()
    team.start(ada)
    cluster.expire("ada")
    cluster.scale("api-server", 2)
    cluster.wait_ready("api-server", 2)

    def own():
        (found,) = ada.intercepts()
        return found

    eventually("it is Degraded, for the login", lambda: own()["phase"] == "Degraded" and "login" in own()["reason"], 10)
    most, until = 0, time.monotonic() + 15
    while time.monotonic() < until:
        # The daemon's old one, its new one, and one of the command that asks.
        most = max(most, sum(not is_shell for _, is_shell, _ in proxies(ada)))
        time.sleep(0.1)
    assert most <= 3, proxies(ada)
    cluster.expire("ada", False)
    cluster.answers("api-server", "ada", 2, aim=12)
    eventually("it is Active again", lambda: ada.phase("api-server") == "Active", 12)


def test_the_socket_of_kubectl_proxy_goes(team, small_cluster):
    """A cleaner of old files, or the end of the user's session, removes its folder. The next question starts another proxy."""
    cluster = small_cluster
    cluster.create("api-server")
    ada = team.join()
    team.start(ada)
    sockets = {word.split("=")[1] for _, _, words in proxies(ada) for word in words if word.startswith("--unix-socket=")}
    assert sockets
    for socket in sockets:
        shutil.rmtree(os.path.dirname(socket))
    cluster.scale("api-server", 2)
    cluster.answers("api-server", "ada", 2, aim=10)
    ada.ok("intercept", "stop", "api-server")
    team.is_released()


def test_conflicts_and_failures_of_the_server(team, small_cluster):
    cluster = small_cluster
    cluster.create("api-server")
    ada = team.join()
    faults = cluster.api.faults
    faults.add(failures.conflict("services", "api-server"), verb="patch", resource="services", times=2)
    team.start(ada)
    cluster.answers("api-server", "ada")
    ada.ok("intercept", "stop", "api-server")
    faults.add(failures.internal("etcdserver: request timed out"), verb="patch", resource="services")
    ran = ada.run(*team.words(ada))
    assert ran.code == 1 and "etcdserver: request timed out" in ran.error, ran
    faults.clear()
    faults.add(delay=3, verb="patch", resource="pods", times=1)
    team.start(ada)
    cluster.answers("api-server", "ada")
    ada.ok("intercept", "stop", "api-server")
    team.is_released()


def test_a_kubelet_that_is_away(team, small_cluster):
    cluster = small_cluster
    cluster.create("api-server")
    ada = team.join()
    cluster.lose_node()
    ran = ada.run(*team.words(ada), timeout=120)
    assert ran.code == 1 and cluster.names("api-server")[0] in ran.error, ran
    assert not team.record()
    cluster.find_node()
    cluster.answers_original("api-server")
    team.start(ada)
    cluster.answers("api-server", "ada")
    # What runs goes on without it.
    cluster.lose_node()
    cluster.answers("api-server", "ada")
    cluster.find_node()
    ada.ok("intercept", "stop", "api-server")
    team.is_released()


@pytest.mark.parametrize("loss", ["sandbox", "container"])
def test_a_sidecar_that_is_lost_comes_again(team, small_cluster, loss):
    cluster = small_cluster
    cluster.create("api-server")
    ada = team.join()
    team.start(ada)
    ((pod, container, _),) = cluster.sidecars("api-server")
    if loss == "sandbox":
        cluster.lose_sandbox(pod)
        cluster.wait_ready("api-server", 1)
    else:
        cluster.kill_container(pod, container, "OOMKilled")
    eventually("another one was added", lambda: len(cluster.sidecars("api-server")) == 2, 5)
    cluster.answers("api-server", "ada", 1, aim=10)
    eventually("it is Active", lambda: ada.phase("api-server") == "Active", 5)
    ada.ok("intercept", "stop", "api-server")
    team.is_released()


def test_a_daemon_that_is_killed(team, small_cluster):
    """The originals answer, and the same developer starts again, who knows nothing of the sidecars."""
    cluster = small_cluster
    cluster.create("api-server", 2)
    ada = team.join()
    team.start(ada)
    cluster.answers("api-server", "ada", 2)
    kill_whole(ada.daemon())
    cluster.answers_original("api-server", aim=5)
    team.start(ada)
    cluster.answers("api-server", "ada", 2)
    assert len(cluster.sidecars("api-server")) == 2
    ada.ok("intercept", "stop", "api-server")
    team.is_released()


def test_kubectl_is_ended_with_the_daemon(team, small_cluster):
    """What was started for an environment doesn't outlive the one that started it."""
    cluster = small_cluster
    cluster.create("api-server")
    ada = team.join()
    team.start(ada)

    assert proxies(ada)
    os.kill(ada.daemon(), signal.SIGKILL)
    eventually("no kubectl is left", lambda: not proxies(ada), 5)


PROBES = [{"httpGet": {"path": "/", "port": "http"}}, {"grpc": {"port": 8080}}, {"tcpSocket": {"port": 8080}}]


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: next(iter(probe)))
def test_a_pod_stays_ready_while_the_laptop_stands_still(team, small_cluster, processes, probe):
    """The kubelet's probes come to the original, by whichever address they come from."""
    cluster = small_cluster
    cluster.create("api-server", readiness={**probe, "periodSeconds": 1})
    (pod,) = cluster.names("api-server")
    ada = team.join()
    port = free_port()
    mine = processes.start("ada", [sys.executable, "-B", WEB, "--name", "ada", "--port", port])
    listening("127.0.0.1", port)
    words = team.words(ada)
    words[words.index("-p") + 1] = f"80:{port}"
    ada.ok(*words)
    cluster.answers("api-server", "ada")
    freeze_whole(mine.pid)
    first = cluster.probed(pod)
    eventually("it was probed five times", lambda: cluster.probed(pod) >= first + 5, 6)
    assert is_ready(cluster.pod(pod))
    mine.signal(signal.SIGCONT)
    cluster.answers("api-server", "ada")
    ada.ok("intercept", "stop", "api-server")
    team.is_released()
