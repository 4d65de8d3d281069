"""A cluster that somebody runs: what tests make is in a namespace of its own, which is deleted in the end."""

import copy
import os
import pathlib
import secrets

import yaml

from harness.waiting import eventually

from .cluster import Cluster
from .nodes import PROGRAMS

# Something with Python in the path, and the sidecar's.
IMAGE = os.environ.get("KL_TEST_IMAGE", "python:3-alpine")


class RealCluster(Cluster):
    is_small = False
    READY = 20

    def __init__(self, kubeconfig, folder):
        self.folder = pathlib.Path(folder)
        namespace = f"kl-e2e-{secrets.token_hex(3)}"
        super().__init__(self._with_namespace(kubeconfig, namespace), namespace)
        self.namespaces = []
        self.create_namespace(namespace)
        self.context = self.client.context

    def _with_namespace(self, kubeconfig, namespace, user=None):
        """The same place, in this namespace; `user`: (name, token) instead of its own."""
        kubeconfig = pathlib.Path(kubeconfig)
        whole = yaml.safe_load(kubeconfig.read_text())
        context = next(entry for entry in whole["contexts"] if entry["name"] == whole["current-context"])
        context["context"]["namespace"] = namespace
        for entries, key in ((whole["clusters"], "cluster"), (whole["users"], "user")):
            for entry in entries:
                for name in ("certificate-authority", "client-certificate", "client-key"):
                    if name in entry[key]:
                        entry[key][name] = str((kubeconfig.parent / entry[key][name]).resolve())
        if user:
            whole["users"] = [{"name": user[0], "user": {"token": user[1]}}]
            context["context"]["user"] = user[0]
        path = self.folder / f"{namespace}-{user[0] if user else 'admin'}.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(whole))
        return path

    def create_namespace(self, name, **labels):
        labels = {f"pod-security.kubernetes.io/{key}": value for key, value in labels.items()}
        self.client.create("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
        self.namespaces.append(name)
        program = {"metadata": {"name": "original"}, "data": {path.name: path.read_text() for path in PROGRAMS}}
        self.client.create(f"/api/v1/namespaces/{name}/configmaps", program)
        # Pods can't be made before the controller has made it.
        account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
        eventually("the namespace has its account", lambda: self.client.find(account), 5, 0.05)

    def in_namespace(self, name):
        """This cluster's Services and pods in another namespace, which is this one's to delete."""
        other = copy.copy(self)
        other.namespace = name
        return other

    def user(self, name, rules, namespaces=None):
        """Somebody with a Role of these rules: a service account's token."""
        home = f"/api/v1/namespaces/{self.namespace}/serviceaccounts"
        self.client.create(home, {"metadata": {"name": name}})
        subject = {"kind": "ServiceAccount", "name": name, "namespace": self.namespace}
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
        for namespace in namespaces or [self.namespace]:
            place = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
            self.client.create(f"{place}/roles", {"metadata": {"name": name}, "rules": rules})
            self.client.create(
                f"{place}/rolebindings", {"metadata": {"name": name}, "subjects": [subject], "roleRef": reference}
            )
        token = self.client.create(f"{home}/{name}/token", {"spec": {"expirationSeconds": 7200}})["status"]["token"]
        return self._with_namespace(self.kubeconfig, (namespaces or [self.namespace])[0], (name, token))

    def user_name(self, name):
        return f"system:serviceaccount:{self.namespace}:{name}"

    def image(self):
        return {"image": IMAGE, "command": ["python3", "-B", "-S", "/programs/original.py"]}

    def pod_parts(self):
        return {"volumes": [{"name": "programs", "configMap": {"name": "original"}}]}

    def container(self, ports, **options):
        found = super().container(ports, **options)
        return {**found, "volumeMounts": [{"name": "programs", "mountPath": "/programs"}]}

    def logs(self):
        events = self.client.get(f"/api/v1/namespaces/{self.namespace}/events")["items"]
        return "\n".join(
            f"{event['involvedObject']['name']}: {event.get('reason')}: {event.get('message')}" for event in events[-60:]
        )

    def close(self):
        for name in self.namespaces:
            self.client.delete(f"/api/v1/namespaces/{name}")
