"""Ways to the sidecars by Services of our own, where pods' addresses can't be reached from the laptop."""

import threading

import pytest
from harness.waiting import eventually
from kubernetes.load import between, now
from kubernetes.team import RULES, rules

WAYS = rules("role-node-port")


def tunnel_services(cluster):
    found = cluster.client.get(cluster.path("services"), labelSelector="app.kubernetes.io/managed-by=kl")["items"]
    return {service["metadata"]["ownerReferences"][0]["name"]: service for service in found}


def connect(developer, cluster, *flags):
    developer.ok("env", "connect", "--context", cluster.context, "--namespace", cluster.namespace, *flags)


def ways(developer):
    status = developer.ok("intercept", "status", "api-server", "-o", "json").json
    return {sidecar["name"]: (sidecar["carrier"], sidecar["address"]) for sidecar in status["intercepts"][0]["sidecars"]}


@pytest.mark.parametrize("carrier", ["udp", "tcp"])
def test_by_the_nodes_ports(team, small_cluster, carrier):
    """Each pod has a Service of its own, a new pod too; they go with the pods, and at the stop."""
    cluster = small_cluster
    node = cluster.nodes.network.address
    cluster.create("api-server", 2)
    ada = team.join(rules=RULES + WAYS)
    connect(ada, cluster, "--way", "node-port")
    team.start(ada, "api-server", "--carrier", carrier)
    cluster.answers("api-server", "ada", 2)
    services = tunnel_services(cluster)
    assert set(services) == set(cluster.names("api-server"))
    ports = {}
    for pod, service in services.items():
        (ports[pod],) = (p["nodePort"] for p in service["spec"]["ports"] if p["protocol"] == carrier.upper())
    assert ways(ada) == {pod: (carrier, f"{node}:{port}") for pod, port in ports.items()}
    # They aren't services that anybody would intercept.
    assert "kl-sidecar" not in ada.ok("env", "status").out
    cluster.scale("api-server", 3)
    cluster.answers("api-server", "ada", 3)
    gone = cluster.names("api-server")[0]
    cluster.delete_pod(gone)
    eventually("its Service goes with it", lambda: gone not in tunnel_services(cluster), 5)
    cluster.wait_ready("api-server", 3)
    cluster.answers("api-server", "ada", 3)
    ada.ok("intercept", "stop", "api-server")
    team.is_released()
    assert not tunnel_services(cluster)
    # Who connects again needn't name the way again, and may name another.
    connect(ada, cluster)
    team.start(ada)
    assert all(address.startswith(f"{node}:") for _, address in ways(ada).values())
    ada.ok("intercept", "stop", "api-server")
    connect(ada, cluster, "--way", "pod-address")
    team.start(ada)
    assert not tunnel_services(cluster)
    ada.ok("intercept", "stop", "api-server")


@pytest.mark.parametrize("carrier", ["udp", "tcp"])
def test_by_load_balancers(team, small_cluster, carrier):
    """Their addresses come some time after the Services."""
    cluster = small_cluster
    cluster.create("api-server", 2)
    ada = team.join(rules=RULES + WAYS)
    connect(ada, cluster, "--way", "load-balancer")
    given, is_over = {}, threading.Event()

    def balance():
        while not is_over.wait(0.2):
            for pod, service in tunnel_services(cluster).items():
                if pod not in given:
                    given[pod] = cluster.nodes.network.service_address()
                    status = {"loadBalancer": {"ingress": [{"ip": given[pod]}]}}
                    cluster.client.patch(f"{cluster.path('services', service['metadata']['name'])}/status", {"status": status})

    thread = threading.Thread(target=balance)
    thread.start()
    try:
        team.start(ada, "api-server", "--carrier", carrier)
        cluster.answers("api-server", "ada", 2)
        assert {pod: address.split(":")[0] for pod, (_, address) in ways(ada).items()} == given
        ada.ok("intercept", "stop", "api-server")
        team.is_released()
        assert not tunnel_services(cluster)
    finally:
        is_over.set()
        thread.join()


def test_the_api_server_goes_away_meanwhile(team, small_cluster):
    cluster = small_cluster
    cluster.create("api-server", 2)
    ada = team.join(rules=RULES + WAYS)
    connect(ada, cluster, "--way", "node-port")
    team.start(ada)
    cluster.answers("api-server", "ada", 2)
    load = team.load()
    began = now()
    cluster.server.stop()
    load.under_way(100)
    cluster.server.start()
    ended = now()
    assert set(between(load.stop(), began, ended)) == {"ada"}
    eventually("it is Active", lambda: ada.phase("api-server") == "Active", 5)
    ada.ok("intercept", "stop", "api-server")
    eventually("none is left", lambda: not tunnel_services(cluster), 5)


@pytest.mark.parametrize("verb, resource", [("create", "services"), ("patch", "pods")])
def test_a_right_that_lacks_is_named(team, small_cluster, verb, resource):
    cluster = small_cluster
    cluster.create("api-server")
    lacking = [{**rule, "verbs": [v for v in rule["verbs"] if (v, rule["resources"]) != (verb, [resource])]} for rule in WAYS]
    ada = team.join(rules=RULES + lacking)
    connect(ada, cluster, "--way", "node-port")
    ran = ada.run(*team.words(ada))
    assert ran.code == 1 and f"cannot {verb} resource" in ran.error and f'"{resource}"' in ran.error, ran
    assert "agent/kubernetes/role-node-port.yaml" in ran.error, ran
    team.is_released()


def test_a_stateful_sets_pods_need_no_label(team, small_cluster):
    cluster = small_cluster
    cluster.create_service("api-server", clusterIP="None")
    cluster.create_deployment("api-server", 1, resource="statefulsets")
    ada = team.join(rules=RULES + [rule for rule in WAYS if rule["resources"] == ["services"]])
    connect(ada, cluster, "--way", "node-port", "--node-address", cluster.nodes.network.address)
    team.start(ada)
    cluster.answers("api-server", "ada", 1)
    (service,) = tunnel_services(cluster).values()
    assert service["spec"]["selector"] == {"statefulset.kubernetes.io/pod-name": "api-server-0"}
    ada.ok("intercept", "stop", "api-server")
    team.is_released()
