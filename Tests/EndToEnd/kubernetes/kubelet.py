"""What a node does with its pods: one thread each brings its processes in line with its specification, and says how it went."""

import pathlib
import signal
import subprocess
import threading
import time

from harness.machine import Machine

from . import failures
from .containers import Container
from .node import is_answered
from .store import now

# How long a kubelet waits before it asks for an image again, in seconds; a real one's back-off begins with 10.
PULL_AGAIN = 2


class PodRun(threading.Thread):
    def __init__(self, nodes, pod, folder):
        metadata = pod["metadata"]
        super().__init__(daemon=True, name=f"pod {metadata['name']}")
        self.nodes, self.store = nodes, nodes.store
        self.key = ("pods", metadata["namespace"], metadata["name"])
        self.uid, self.node = metadata["uid"], pod["spec"]["nodeName"]
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True)
        self.sandbox = self.address = None
        self.runs, self.restarts, self.last = {}, {}, {}
        self.waiting = {}
        self.ready = set()
        self.failures = {}
        # How often each container was probed.
        self.probed = {}
        self._next_probe = {}
        self._again = {}
        self._terminating_until = None
        self._wake = threading.Event()
        self._lock = threading.RLock()
        self.is_over = False

    def wake(self):
        self._wake.set()

    def run(self):
        try:
            while not self.is_over:
                if self.node in self.nodes.away and not self.nodes.is_closing:
                    self._wait(0.1)
                    continue
                with self._lock:
                    pause = self._sync()
                if not self.is_over:
                    self._wait(pause)
        except Exception as error:  # a thread's end must be seen
            if not self.nodes.is_closing:
                self.nodes.errors.append((self.key[2], error))
                raise
        finally:
            self._end_sandbox()

    def _wait(self, seconds):
        self._wake.wait(seconds)
        self._wake.clear()

    def _sync(self):
        """One round; returns for how long nothing is to be done."""
        pod = self.store.get(*self.key)
        if pod is None or pod["metadata"]["uid"] != self.uid or self.nodes.is_closing:
            self.is_over = True
            return 0
        if pod["metadata"].get("deletionTimestamp"):
            return self._terminate(pod)
        if self.sandbox is None:
            self.sandbox = Machine()
            self.address = self.nodes.network.plug_in(self.sandbox)
        pauses = [60]
        for container in pod["spec"]["containers"]:
            pauses.append(self._keep(pod, container))
        for container in pod["spec"].get("ephemeralContainers") or []:
            if container["name"] not in self.runs:
                pauses.append(self._start(pod, container, ephemeral=True))
        pauses += [self._probe(container) for container in pod["spec"]["containers"]]
        self._report()
        return min(pauses)

    def _keep(self, pod, container):
        name = container["name"]
        run = self.runs.get(name)
        if run and run.is_running:
            return 60
        if run and name not in self._again:
            self.ready.discard(name)
            self.last[name] = run.state()
            # The first time at once, then later and later.
            self._again[name] = time.monotonic() + (
                0 if not self.restarts.get(name) else min(300, 10 * 2 ** self.restarts[name])
            )
        if (left := self._again.get(name, 0) - time.monotonic()) > 0:
            return left
        self._again.pop(name, None)
        if run:
            self.restarts[name] = self.restarts.get(name, 0) + 1
        return self._start(pod, container)

    def _start(self, pod, container, ephemeral=False):
        name = container["name"]
        if (left := self._again.get(f"pull {name}", 0) - time.monotonic()) > 0:
            return left
        if reason := self._why_not(pod, container):
            self.waiting[name] = {"reason": reason[0], "message": reason[1]}
            self._again[f"pull {name}"] = time.monotonic() + PULL_AGAIN
            return PULL_AGAIN
        self.waiting.pop(name, None)
        log = self.folder / f"{name}-{self.restarts.get(name, 0)}.log"
        capabilities = None
        if ephemeral:
            asked = (container.get("securityContext") or {}).get("capabilities") or {}
            if "ALL" in asked.get("drop", []):
                capabilities = asked.get("add", [])
        command = self.nodes.command(container)
        options = {"capabilities": capabilities, "on_end": self.wake}
        options["tells_log"] = container["terminationMessagePolicy"] == "FallbackToLogsOnError"
        self.runs[name] = Container(self.sandbox, name, command, log, self.key[2], **options)
        self._next_probe[name] = 0
        return 0 if container.get("readinessProbe") else 60

    def _why_not(self, pod, container):
        image = container["image"]
        if not self.nodes.has_image(image):
            if container.get("imagePullPolicy") == "Never":
                return "ErrImageNeverPull", f'Container image "{image}" is not present with pull policy of Never'
            text = f'failed to pull and unpack image "{image}": failed to resolve reference "{image}": {image}: not found'
            if self.waiting.get(container["name"], {}).get("reason") == "ErrImagePull":
                return "ImagePullBackOff", f'Back-off pulling image "{image}": ErrImagePull: {text}'
            return "ErrImagePull", text
        own, pods = container.get("securityContext") or {}, pod["spec"].get("securityContext") or {}
        user = own.get("runAsUser", pods.get("runAsUser"))
        if own.get("runAsNonRoot", pods.get("runAsNonRoot")) and user in (0, None):
            why = (
                "container's runAsUser breaks non-root policy"
                if user == 0
                else "container has runAsNonRoot and image will run as root"
            )
            _, namespace, name = self.key
            return (
                "CreateContainerConfigError",
                f'{why} (pod: "{name}_{namespace}({self.uid})", container: {container["name"]})',
            )
        return None

    def _probe(self, container):
        """Readiness, by the node's network and so from the pods' gateway."""
        name = container["name"]
        run, probe = self.runs.get(name), container.get("readinessProbe")
        if run is None or not run.is_running:
            return 60
        if not probe:
            self.ready.add(name)
            return 60
        left = self._next_probe.get(name, 0) - time.monotonic()
        if left > 0:
            return left
        self.probed[name] = self.probed.get(name, 0) + 1
        if self._is_answered(container, probe):
            self.ready.add(name)
            self.failures[name] = 0
        else:
            self.failures[name] = self.failures.get(name, 0) + 1
            if self.failures[name] >= probe.get("failureThreshold", 3):
                self.ready.discard(name)
        # Until it is ready a kubelet asks more often than told, as soon as a container has changed.
        period = probe.get("periodSeconds", 10) if name in self.ready else 0.2
        self._next_probe[name] = time.monotonic() + period
        return period

    def _is_answered(self, container, probe):
        if command := (probe.get("exec") or {}).get("command"):
            inside = self.runs[container["name"]].command_inside(self.nodes.words(command))
            return subprocess.run(inside, capture_output=True, stdin=subprocess.DEVNULL).returncode == 0
        kinds = {"httpGet": "http", "tcpSocket": "tcp", "grpc": "grpc"}
        kind, what = next((kinds[key], probe[key]) for key in kinds if key in probe)
        named = {port.get("name"): port["containerPort"] for port in container.get("ports", [])}
        port = named.get(what["port"], what["port"])
        return is_answered(self.nodes.network.machine, kind, self.address, port, what.get("path", "/"))

    def _terminate(self, pod):
        """preStop, SIGTERM to all containers, SIGKILL after the grace period; then the object goes."""
        clock, grace = time.monotonic(), pod["metadata"].get("deletionGracePeriodSeconds", 30)
        if self._terminating_until is None:
            self._terminating_until = clock + grace
            self._prestops = {c["name"]: clock + self._prestop(c) for c in pod["spec"]["containers"]}
            self._told = set()
        self._terminating_until = min(self._terminating_until, clock + grace)
        alive = [run for run in self.runs.values() if run.is_running]
        for run in alive:
            if run.name not in self._told and clock >= self._prestops.get(run.name, 0):
                self._told.add(run.name)
                run.signal(signal.SIGTERM)
        if clock >= self._terminating_until:
            for run in alive:
                run.kill()
        self._report()
        if not alive or clock >= self._terminating_until + 2:
            self._end_sandbox()
            self.store.delete(*self.key)
            self.is_over = True
        left = [at - clock for name, at in self._prestops.items() if name not in self._told]
        return max(0.02, min([self._terminating_until - clock, 0.5, *left]))

    @staticmethod
    def _prestop(container):
        return (((container.get("lifecycle") or {}).get("preStop") or {}).get("sleep") or {}).get("seconds", 0)

    def lose_sandbox(self):
        """All its processes end; it goes on with a new address. Ephemeral containers aren't started again."""
        with self._lock:
            for run in self.runs.values():
                run.reason = "Error"
            self._end_sandbox()
            until = time.monotonic() + 10
            while any(run.is_running for run in self.runs.values()) and time.monotonic() < until:
                time.sleep(0.01)
            self.ready.clear()
        self.wake()

    def _end_sandbox(self):
        if self.sandbox:
            self.sandbox.close()
            self.sandbox = None

    # What it says

    def _report(self):
        self.store.change(*self.key, self._tell)

    def _tell(self, pod):
        status, spec = pod["status"], pod["spec"]
        status["hostIP"], status["hostIPs"] = self.nodes.network.address, [{"ip": self.nodes.network.address}]
        if self.address:
            status["podIP"], status["podIPs"] = self.address, [{"ip": self.address}]
        status.setdefault("startTime", now())
        status["containerStatuses"] = [self._status(pod, container) for container in spec["containers"]]
        if spec.get("ephemeralContainers"):
            status["ephemeralContainerStatuses"] = [
                self._status(pod, container, True) for container in spec["ephemeralContainers"]
            ]
        states = [entry["state"] for entry in status["containerStatuses"]]
        if status.get("phase") == "Pending" and all("waiting" not in state for state in states):
            status["phase"] = "Running"
        names = [container["name"] for container in spec["containers"]]
        unready = [name for name in names if name not in self.ready]
        text = (
            {"message": f"containers with unready status: [{' '.join(unready)}]", "reason": "ContainersNotReady"}
            if unready
            else {}
        )
        for kind in ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"):
            is_true = not unready if kind in ("Ready", "ContainersReady") else True
            _set_condition(status, kind, is_true, text if kind in ("Ready", "ContainersReady") else {})

    def _status(self, pod, container, ephemeral=False):
        name, image = container["name"], container["image"]
        run = self.runs.get(name)
        found = {"name": name, "lastState": self.last.get(name, {}), "ready": not ephemeral and name in self.ready}
        found["restartCount"] = self.restarts.get(name, 0)
        found["image"] = _full(image) if run else image
        found["imageID"] = self.nodes.image_identity(image) if run else ""
        if name in self.waiting:
            found["state"] = {"waiting": self.waiting[name]}
        elif run is None:
            found["state"] = {"waiting": {"reason": "ContainerCreating"}}
        else:
            found["state"] = run.state()
            found["containerID"] = run.identity
        if not ephemeral:
            found["started"] = run is not None and run.is_running
        return found


def _set_condition(status, kind, is_true, more):
    wanted = {"type": kind, "status": "True" if is_true else "False", "lastProbeTime": None, **more}
    conditions = status.setdefault("conditions", [])
    for condition in conditions:
        if condition["type"] == kind:
            if condition["status"] != wanted["status"]:
                condition["lastTransitionTime"] = now()
            for key in ("message", "reason"):
                condition.pop(key, None)
            condition.update(wanted)
            return
    conditions.append({**wanted, "lastTransitionTime": now()})


def _full(image):
    """As a container runtime writes it."""
    first, slash, _ = image.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return image
    return f"docker.io/{image}" if slash else f"docker.io/library/{image}"


def dial_error(nodes):
    text = f"error dialing backend: dial tcp {nodes.network.address}:10250: connect: connection refused"
    return failures.Failure(500, "", text)
