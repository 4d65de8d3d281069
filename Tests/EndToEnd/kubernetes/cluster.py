"""What tests do with a cluster, whichever it is: Services, Deployments, pods, and developers with few rights."""

import time

from harness.load import who
from harness.waiting import eventually

from .client import Client
from .controllers import is_ending, is_ready


def path_of(resource, namespace, name=""):
    group = "/apis/apps/v1" if resource in ("deployments", "statefulsets", "replicasets") else "/api/v1"
    group = "/apis/discovery.k8s.io/v1" if resource == "endpointslices" else group
    return f"{group}/namespaces/{namespace}/{resource}" + (f"/{name}" if name else "")


class Cluster:
    """A namespace of a cluster, seen by its administrator."""

    # How long a pod takes until it is ready, in seconds, at most a tenth of what is waited for.
    READY = 5

    def __init__(self, kubeconfig, namespace):
        self.kubeconfig, self.namespace = kubeconfig, namespace
        self.client = Client(kubeconfig)
        self.context = self.client.context

    def path(self, resource, name=""):
        return path_of(resource, self.namespace, name)

    # Things to be there

    def image(self):
        """Of the original's program, and what starts it."""
        raise NotImplementedError

    def pod_parts(self):
        """What belongs to every pod's specification."""
        return {}

    def user(self, name, rules, namespaces=None):
        """A developer with a Role of these rules; returns their kubeconfig."""
        raise NotImplementedError

    def user_name(self, name):
        """What the API server calls them."""
        raise NotImplementedError

    def container(
        self, ports, *, name="app", readiness=True, slow_start=0, stop_after=0, prestop=0, udp=(), context=None, **more
    ):
        """A container of the original."""
        arguments = [word for port in ports.values() for word in ("--port", str(port))]
        arguments += [word for port in udp for word in ("--udp-port", str(port))]
        if slow_start:
            arguments += ["--slow-start", str(slow_start)]
        if stop_after:
            arguments += ["--stop-after", str(stop_after)]
        declared = [{"name": key, "containerPort": port} for key, port in ports.items()]
        found = {"name": name, **self.image(), "args": arguments, "ports": declared, **more}
        if readiness:
            probe = {"httpGet": {"path": "/", "port": next(iter(ports.values()))}, "periodSeconds": 1}
            found["readinessProbe"] = probe if readiness is True else readiness
        if prestop:
            found["lifecycle"] = {"preStop": {"sleep": {"seconds": prestop}}}
        if context:
            found["securityContext"] = context
        return found

    def create_service(self, name, ports=None, selector=None, **spec):
        """With ports {name: (published, target)}; the target is a number or a pod's name for one."""
        entries = []
        for key, (published, target) in (ports or {"http": (80, 8080)}).items():
            transport = "UDP" if key.endswith("udp") else "TCP"
            entries.append({"name": key, "port": published, "targetPort": target, "protocol": transport})
        whole = {"selector": {"app": name} if selector is None else selector, "ports": entries, **spec}
        whole = {key: value for key, value in whole.items() if value}
        return self.client.create(self.path("services"), {"metadata": {"name": name}, "spec": whole})

    def pod_template(self, name, ports=None, labels=None, pod=None, **options):
        container = self.container(ports or {"http": 8080}, **options)
        spec = {"containers": [container], "terminationGracePeriodSeconds": 5, **self.pod_parts(), **(pod or {})}
        return {"metadata": {"labels": {"app": name, **(labels or {})}}, "spec": spec}

    def create_deployment(self, name, replicas=1, resource="deployments", wait=True, **options):
        """Options: `ports` {name: port}, `labels`, `pod` (more of its specification), and those of `container`."""
        spec = {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": self.pod_template(name, **options),
        }
        if resource == "statefulsets":
            spec["serviceName"] = name
        made = self.client.create(self.path(resource), {"metadata": {"name": name}, "spec": spec})
        if wait:
            self.wait_ready(name, replicas)
        return made

    def create_pod(self, name, app=None, wait=True, **options):
        """A pod without an owner."""
        template = self.pod_template(app or name, **options)
        template["metadata"]["name"] = name
        made = self.client.create(self.path("pods"), template)
        if wait:
            eventually(f"pod {name} is ready", lambda: is_ready(self.pod(name) or {}), self.READY, 0.05)
        return made

    def create(self, name, replicas=1, **options):
        """A Service and its Deployment."""
        self.create_service(name)
        self.create_deployment(name, replicas, **options)
        if options.get("wait", True):
            eventually("the Service leads to them", lambda: len(self.endpoints(name)) == replicas, self.READY, 0.02)

    # What is there

    def pods(self, app=None, ending=False):
        query = {"labelSelector": f"app={app}"} if app else {}
        items = self.client.get(self.path("pods"), **query)["items"]
        return [pod for pod in items if ending or not is_ending(pod)]

    def pod(self, name):
        return self.client.find(self.path("pods", name))

    def service(self, name):
        return self.client.find(self.path("services", name))

    def names(self, app):
        return [pod["metadata"]["name"] for pod in self.pods(app)]

    def wait_ready(self, app, count):
        """Waits for so many ready pods and no other that isn't ending; returns them."""

        def check():
            pods = self.pods(app)
            return pods if len(pods) == count and all(map(is_ready, pods)) else None

        return eventually(f"{count} pods are ready", check, self.READY, 0.05)

    def endpoints(self, service, port=None):
        """(address, port) of each ready pod behind a Service, as kube-proxy would choose from; `port`: by its name."""
        query = {"labelSelector": f"kubernetes.io/service-name={service}"}
        found = []
        for part in self.client.get(self.path("endpointslices"), **query)["items"]:
            numbers = [p["port"] for p in part.get("ports") or [] if port in (None, p["name"])]
            for endpoint in part.get("endpoints") or []:
                if endpoint["conditions"].get("ready") and numbers:
                    found.append((endpoint["addresses"][0], numbers[0]))
        return sorted(found)

    def who(self, service, port=None, timeout=10):
        """Who answers at each ready pod of a Service."""
        return [(who(address, timeout) or "").strip() for address in self.endpoints(service, port)]

    def answers(self, service, wanted, count=None, aim=3):
        """Waits until every ready pod's port is answered by `wanted`; `count`: so many pods."""

        def check():
            said = self.who(service)
            return said and set(said) == {wanted} and count in (None, len(said))

        eventually(f"every pod of {service} is answered by {wanted}", check, aim, 0.05)

    def answers_original(self, service, aim=3):
        def check():
            said = self.who(service)
            return said and all(answer.endswith(" original") for answer in said)

        eventually(f"every pod of {service} answers itself", check, aim, 0.05)

    def sidecars(self, app):
        """(pod's name, container's name, its state) of every ephemeral container."""
        found = []
        for pod in self.pods(app, ending=True):
            states = {s["name"]: s["state"] for s in pod["status"].get("ephemeralContainerStatuses") or []}
            for entry in pod["spec"].get("ephemeralContainers") or []:
                found.append((pod["metadata"]["name"], entry["name"], states.get(entry["name"], {})))
        return found

    # What happens

    def scale(self, name, replicas, resource="deployments", wait=True):
        self.client.patch(self.path(resource, name) + "/scale", {"spec": {"replicas": replicas}})
        if wait:
            self.wait_ready(name, replicas)

    def roll_out(self, name, resource="deployments", wait=True, **changes):
        """New pods in the place of the old; `changes` are merged into the pods' specification."""
        before = set(self.names(name))
        stamp = {"metadata": {"annotations": {"rolled-out": str(time.time_ns())}}}
        self.client.patch(
            self.path(resource, name), {"spec": {"template": {**stamp, **({"spec": changes} if changes else {})}}}, "strategic"
        )
        if wait:
            what = f"all pods of {name} are new"
            eventually(what, lambda: not before & set(self.names(name)), 3 * self.READY, 0.05)
            self.wait_ready(name, len(before))

    def delete_pod(self, name, grace=None, wait=False):
        query = {} if grace is None else {"gracePeriodSeconds": grace}
        self.client.delete(self.path("pods", name), **query)
        if wait:
            eventually(f"pod {name} is gone", lambda: self.pod(name) is None, self.READY, 0.05)
