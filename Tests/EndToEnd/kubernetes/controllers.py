"""Deployments, StatefulSets and EndpointSlices: what the controllers of a cluster make of the objects that others write."""

import hashlib
import json
import math
import threading

from . import discovery, selecting
from .api import ALPHABET, suffix


def template_hash(template):
    digest = hashlib.sha256(json.dumps(template, sort_keys=True).encode()).digest()
    return "".join(ALPHABET[byte % len(ALPHABET)] for byte in digest[:10])


def is_ready(pod):
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", []))


def is_ending(pod):
    return "deletionTimestamp" in pod["metadata"]


def is_over(pod):
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


class Controllers(threading.Thread):
    WATCHED = {"deployments", "statefulsets", "pods", "services", "replicasets"}

    def __init__(self, store, api, network):
        super().__init__(daemon=True, name="controllers")
        self.store, self.api = store, api
        self.network, self._ways = network, []
        self.errors = []
        self._changed = threading.Event()
        self._is_closing = False
        store.listeners.append(self._see)

    def _see(self, event):
        if event.key[0] in self.WATCHED:
            self._changed.set()

    def run(self):
        while not self._is_closing:
            self._changed.wait(5)
            self._changed.clear()
            try:
                self._round()
            except Exception as error:  # a thread's end must be seen
                self.errors.append(error)
                raise

    def close(self):
        self._is_closing = True
        self._changed.set()
        self.join(10)

    def _round(self):
        for deployment in self.store.list("deployments")[1]:
            self._deploy(deployment)
        for wanted in self.store.list("statefulsets")[1]:
            self._keep_set(wanted)
        self._collect()
        for service in self.store.list("services")[1]:
            self._point(service)
        self._lead_in()

    def _lead_in(self):
        """What a kube-proxy does for those who come from outside, with one pod for each Service."""
        ways = []
        for service in self.store.list("services")[1]:
            spec = service["spec"]
            if spec.get("type") not in ("NodePort", "LoadBalancer"):
                continue
            pods = [pod for pod in self._selected(service) if pod["status"].get("podIP")]
            balancers = [given["ip"] for given in service["status"]["loadBalancer"].get("ingress", [])]
            for port in spec["ports"] if pods else []:
                target = (port["protocol"].lower(), pods[0]["status"]["podIP"], port["targetPort"])
                if isinstance(port["targetPort"], int):
                    ways.append((self.network.address, port["nodePort"], *target))
                    ways += [(address, port["port"], *target) for address in balancers]
        if ways != self._ways:
            self._ways = ways
            self.network.lead_in(ways)

    def _selected(self, service):
        selector = (service["spec"].get("selector") or {}).items()
        pods = self.store.list("pods", service["metadata"]["namespace"])[1] if selector else []
        return [pod for pod in pods if selector <= (pod["metadata"].get("labels") or {}).items() and not is_over(pod)]

    def _collect(self):
        """What belongs to an owner that is gone."""
        owners = {
            found["metadata"]["uid"]
            for kind in ("deployments", "statefulsets", "replicasets")
            for found in self.store.list(kind)[1]
        }
        owners |= {pod["metadata"]["uid"] for pod in self.store.list("pods")[1]}
        for kind in ("replicasets", "pods", "services"):
            for found in self.store.list(kind)[1]:
                references = found["metadata"].get("ownerReferences") or []
                if references and references[0]["uid"] not in owners and not is_ending(found):
                    self.api.delete(kind, found, None)

    def _pods(self, namespace, owners):
        uids = {owner["metadata"]["uid"] for owner in owners}
        return [
            pod
            for pod in self.store.list("pods", namespace)[1]
            if not is_ending(pod)
            and not is_over(pod)
            and any(o["uid"] in uids for o in pod["metadata"].get("ownerReferences") or [])
        ]

    def _create_pod(self, owner, kind, template, name=None, labels=None):
        metadata, reference = owner["metadata"], {"apiVersion": "apps/v1", "kind": kind}
        reference |= {"name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"]}
        own = template.get("metadata") or {}
        fresh = {"name": name or f"{metadata['name']}-{suffix()}", "namespace": metadata["namespace"]}
        fresh["labels"] = {**(own.get("labels") or {}), **(labels or {})}
        fresh["ownerReferences"] = [{**reference, "controller": True, "blockOwnerDeletion": True}]
        if name is None:
            fresh["generateName"] = f"{metadata['name']}-"
        if own.get("annotations"):
            fresh["annotations"] = own["annotations"]
        self.api.create(_As("pods", metadata["namespace"]), {"metadata": fresh, "spec": template["spec"]})

    def _deploy(self, deployment):
        metadata, spec = deployment["metadata"], deployment["spec"]
        if is_ending(deployment):
            return
        template, code = spec["template"], template_hash(spec["template"])
        sets = [
            found
            for found in self.store.list("replicasets", metadata["namespace"])[1]
            if any(owner["uid"] == metadata["uid"] for owner in found["metadata"]["ownerReferences"])
        ]
        current = next((found for found in sets if found["metadata"]["labels"]["pod-template-hash"] == code), None)
        if current is None:
            current = self._create_set(deployment, code)
            sets.append(current)
        pods = self._pods(metadata["namespace"], sets)
        fresh = [pod for pod in pods if pod["metadata"]["labels"].get("pod-template-hash") == code]
        old = [pod for pod in pods if pod not in fresh]
        replicas = spec.get("replicas", 1)
        for _ in range(min(replicas - len(fresh), replicas + math.ceil(replicas / 4) - len(pods))):
            self._create_pod(current, "ReplicaSet", template, labels={"pod-template-hash": code})
        for pod in sorted(fresh, key=is_ready)[: max(0, len(fresh) - replicas)]:
            self.api.delete("pods", pod, None)
        spare = sum(map(is_ready, pods)) - (replicas - replicas // 4)
        for pod in sorted(old, key=is_ready):
            if is_ready(pod):
                spare -= 1
            if spare < 0:
                break
            self.api.delete("pods", pod, None)
        self._tell("deployments", deployment, pods, fresh)

    def _create_set(self, deployment, code):
        metadata, spec = deployment["metadata"], deployment["spec"]
        reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": metadata["name"], "uid": metadata["uid"]}
        own = {"name": f"{metadata['name']}-{code}", "namespace": metadata["namespace"]}
        own["labels"] = {**spec["template"]["metadata"].get("labels", {}), "pod-template-hash": code}
        own["ownerReferences"] = [{**reference, "controller": True, "blockOwnerDeletion": True}]
        selector = {"matchLabels": {**spec["selector"]["matchLabels"], "pod-template-hash": code}}
        found = {
            "metadata": own,
            "spec": {"replicas": spec.get("replicas", 1), "selector": selector, "template": spec["template"]},
        }
        return self.store.create("replicasets", {**found, "status": {}})

    def _tell(self, resource, owner, pods, fresh):
        ready = sum(map(is_ready, pods))
        status = {"replicas": len(pods), "updatedReplicas": len(fresh), "readyReplicas": ready, "availableReplicas": ready}
        self.store.change(
            resource, owner["metadata"]["namespace"], owner["metadata"]["name"], lambda found: found.update(status=status)
        )

    def _keep_set(self, wanted):
        """A StatefulSet: pods by number, one after the other."""
        metadata, spec = wanted["metadata"], wanted["spec"]
        code = template_hash(spec["template"])
        every = {pod["metadata"]["name"]: pod for pod in self.store.list("pods", metadata["namespace"])[1]}
        pods = self._pods(metadata["namespace"], [wanted])
        replicas = spec.get("replicas", 1)
        number = {pod["metadata"]["name"]: int(pod["metadata"]["name"].rpartition("-")[2]) for pod in pods}
        for index in range(replicas):
            name = f"{metadata['name']}-{index}"
            if name not in every:
                labels = {"statefulset.kubernetes.io/pod-name": name, "apps.kubernetes.io/pod-index": str(index)}
                self._create_pod(wanted, "StatefulSet", spec["template"], name, {**labels, "controller-revision-hash": code})
                break
            if not is_ready(every[name]):
                break
        else:
            stale = [p for p in pods if p["metadata"]["labels"].get("controller-revision-hash") != code]
            extra = [p for p in pods if number[p["metadata"]["name"]] >= replicas]
            for pod in sorted(extra or stale, key=lambda p: -number[p["metadata"]["name"]])[:1]:
                self.api.delete("pods", pod, None)
        self._tell("statefulsets", wanted, pods, [])

    def _point(self, service):
        """The EndpointSlices of a Service: one for each way in which its pods have its ports."""
        metadata, spec = service["metadata"], service["spec"]
        slices = {}
        for pod in self.store.list("pods", metadata["namespace"])[1]:
            address = pod["status"].get("podIP")
            if not selecting.by_map(spec.get("selector"))(pod) or not address or is_over(pod):
                continue
            ports = [p for p in (_port_of(pod, port) for port in spec.get("ports", [])) if p]
            ready = is_ready(pod)
            conditions = {"ready": ready and not is_ending(pod), "serving": ready, "terminating": is_ending(pod)}
            target = {
                "kind": "Pod",
                "namespace": metadata["namespace"],
                "name": pod["metadata"]["name"],
                "uid": pod["metadata"]["uid"],
            }
            endpoint = {
                "addresses": [address],
                "conditions": conditions,
                "targetRef": target,
                "nodeName": pod["spec"].get("nodeName"),
            }
            slices.setdefault(json.dumps(ports), []).append(endpoint)
        for ports, endpoints in slices.items():
            self._slice(service, f"{metadata['name']}-{template_hash(ports)[:5]}", json.loads(ports), endpoints)
        kept = {f"{metadata['name']}-{template_hash(ports)[:5]}" for ports in slices}
        for found in self.store.list("endpointslices", metadata["namespace"])[1]:
            labels = found["metadata"]["labels"]
            if labels["kubernetes.io/service-name"] == metadata["name"] and found["metadata"]["name"] not in kept:
                self.store.delete("endpointslices", metadata["namespace"], found["metadata"]["name"])

    def _slice(self, service, name, ports, endpoints):
        metadata = service["metadata"]
        parts = {"addressType": "IPv4", "endpoints": endpoints, "ports": ports}
        if self.store.change("endpointslices", metadata["namespace"], name, lambda found: found.update(parts)) is None:
            owner = {
                "apiVersion": "v1",
                "kind": "Service",
                "name": metadata["name"],
                "uid": metadata["uid"],
                "controller": True,
            }
            own = {"name": name, "namespace": metadata["namespace"], "ownerReferences": [owner]}
            own["labels"] = {"kubernetes.io/service-name": metadata["name"]}
            self.store.create("endpointslices", {"metadata": own, **parts})


class _As:
    """What `API.create` asks of a request's path."""

    def __init__(self, resource, namespace):
        self.resource, self.namespace, self.name = resource, namespace, ""
        self.kind = next(found for found in discovery.RESOURCES if found.name == resource)


def _port_of(pod, port):
    """A Service's port as this pod has it; None where the pod lacks a port of that name."""
    target = port["targetPort"]
    if isinstance(target, str):
        named = [p for c in pod["spec"]["containers"] for p in c.get("ports", []) if p.get("name") == target]
        same = [p["containerPort"] for p in named if p.get("protocol", "TCP") == port["protocol"]]
        if not same:
            return None
        target = same[0]
    return {"name": port.get("name", ""), "port": target, "protocol": port["protocol"]}
