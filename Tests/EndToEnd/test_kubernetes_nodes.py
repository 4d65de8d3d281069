"""What the small cluster makes of its pods: what other tests build on."""

import os
import signal

import pytest
from harness.waiting import eventually
from kubernetes.injection import inject, sidecar_entry, started, state_of


@pytest.fixture
def pod(cluster):
    cluster.create("api-server")
    return cluster.names("api-server")[0]


def test_a_kubelet_away(small_cluster, kubectl, pod):
    small_cluster.lose_node()
    assert inject(small_cluster, pod, sidecar_entry())[0] == 200
    ran = kubectl.run("exec", pod, "--", "true")
    assert ran.returncode == 1 and "error dialing backend" in ran.stderr
    assert small_cluster.who("api-server") == [f"{pod} original"]
    assert state_of(small_cluster, pod, "kl-sidecar-1") == {}
    small_cluster.find_node()
    eventually("it comes to life later", lambda: "running" in state_of(small_cluster, pod, "kl-sidecar-1"), 3)


def test_a_pod_that_has_no_node(small_cluster, kubectl):
    small_cluster.nodes.is_scheduling = False
    small_cluster.create_pod("one", wait=False)
    assert inject(small_cluster, "one", sidecar_entry())[0] == 200
    ran = kubectl.run("exec", "one", "--", "true")
    assert ran.returncode == 1 and "does not have a host assigned" in ran.stderr


def test_a_lost_sandbox_and_a_killed_container(small_cluster, pod):
    cluster = small_cluster
    inject(cluster, pod, sidecar_entry())
    started(cluster, pod)
    before = cluster.pod(pod)
    cluster.lose_sandbox(pod)
    eventually("it has another address", lambda: cluster.pod(pod)["status"]["podIP"] != before["status"]["podIP"], 3)
    cluster.wait_ready("api-server", 1)
    assert cluster.pod(pod)["metadata"]["uid"] == before["metadata"]["uid"]
    assert "terminated" in state_of(cluster, pod, "kl-sidecar-1")
    inject(cluster, pod, sidecar_entry("kl-sidecar-2"))
    eventually("another sidecar runs", lambda: "running" in state_of(cluster, pod, "kl-sidecar-2"), 3)
    cluster.kill_container(pod, "kl-sidecar-2", "OOMKilled")
    ended = eventually("it has ended", lambda: state_of(cluster, pod, "kl-sidecar-2").get("terminated"), 3)
    assert (ended["exitCode"], ended["reason"]) == (137, "OOMKilled")


def test_a_pod_ends_in_its_time(small_cluster):
    """preStop first, then SIGTERM to all at once; SIGKILL when the time is over."""
    cluster = small_cluster
    cluster.create("api-server", prestop=2)
    pod = cluster.names("api-server")[0]
    inject(cluster, pod, sidecar_entry())
    started(cluster, pod)
    address = cluster.endpoints("api-server")[0]
    cluster.scale("api-server", 0, wait=False)
    eventually("the sidecar was told at once", lambda: "terminated" in state_of(cluster, pod, "kl-sidecar-1"), 1)
    ending = cluster.pod(pod)
    assert (
        ending["metadata"]["deletionGracePeriodSeconds"] == 5 and "running" in ending["status"]["containerStatuses"][0]["state"]
    )
    assert address not in cluster.endpoints("api-server")
    eventually("the pod is gone", lambda: cluster.pod(pod) is None, 5)
    # One that doesn't hear the signal.
    cluster.create_pod(
        "deaf", pod={"terminationGracePeriodSeconds": 1}, command=["/bin/sleep", "1000"], readiness=False, args=[]
    )
    process = cluster.process_of("deaf", "app")
    cluster.delete_pod("deaf", wait=True)
    with pytest.raises(ProcessLookupError):
        os.kill(process, signal.SIGCONT)


PROBES = [{"grpc": {"port": 8080}}, {"tcpSocket": {"port": "http"}}, {"exec": {"command": ["true"]}}]


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: next(iter(probe)))
def test_readiness_probes(cluster, probe):
    cluster.create("api-server", readiness={**probe, "periodSeconds": 1})
    (name,) = cluster.names("api-server")
    # An exec probe can be true before the server listens.
    cluster.answers("api-server", f"{name} original", 1)


def test_a_stateful_set(cluster):
    cluster.create_service("db", clusterIP="None")
    cluster.create_deployment("db", 2, resource="statefulsets")
    assert cluster.names("db") == ["db-0", "db-1"]
    uid = cluster.pod("db-0")["metadata"]["uid"]
    cluster.delete_pod("db-0")
    eventually(
        "a new db-0", lambda: (cluster.pod("db-0") or {"metadata": {"uid": uid}})["metadata"]["uid"] != uid, cluster.READY
    )
    cluster.wait_ready("db", 2)
