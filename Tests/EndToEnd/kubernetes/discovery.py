"""What a server says of itself: its groups and resources, in both forms that kubectl asks for."""

VERSION = {
    "major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36", "minCompatibilityMajor": "1",
    "minCompatibilityMinor": "35", "gitVersion": "v1.36.2", "gitCommit": "", "gitTreeState": "clean",
    "buildDate": "2026-07-14T00:00:00Z", "goVersion": "go1.25.5", "compiler": "gc", "platform": "linux/amd64",
}  # fmt: skip
CRUD = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]


class Resource:
    def __init__(self, name, kind, verbs=CRUD, namespaced=True, short=(), categories=(), group="", subresources=()):
        self.name, self.kind, self.verbs, self.namespaced, self.group = name, kind, list(verbs), namespaced, group
        self.short, self.categories = list(short), list(categories)
        # (name, kind, verbs)
        self.subresources = subresources

    @property
    def singular(self):
        return self.kind.lower()

    @property
    def api_version(self):
        return f"{self.group}/v1" if self.group else "v1"


SCALE = ("scale", "Scale", ["get", "patch", "update"])
STATUS = ["get", "patch", "update"]
RESOURCES = [
    Resource("configmaps", "ConfigMap", short=["cm"]),
    Resource("events", "Event", short=["ev"]),
    Resource("namespaces", "Namespace", [v for v in CRUD if v != "deletecollection"], False, ["ns"],
             subresources=[("status", "Namespace", STATUS)]),
    Resource("nodes", "Node", namespaced=False, short=["no"], subresources=[("status", "Node", STATUS)]),
    Resource("pods", "Pod", short=["po"], categories=["all"], subresources=[
        ("ephemeralcontainers", "Pod", STATUS), ("exec", "PodExecOptions", ["create", "get"]), ("log", "Pod", ["get"]),
        ("status", "Pod", STATUS)]),
    Resource("secrets", "Secret"),
    Resource("serviceaccounts", "ServiceAccount", short=["sa"]),
    Resource("services", "Service", short=["svc"], categories=["all"], subresources=[("status", "Service", STATUS)]),
    Resource("deployments", "Deployment", short=["deploy"], categories=["all"], group="apps",
             subresources=[SCALE, ("status", "Deployment", STATUS)]),
    Resource("replicasets", "ReplicaSet", short=["rs"], categories=["all"], group="apps",
             subresources=[SCALE, ("status", "ReplicaSet", STATUS)]),
    Resource("statefulsets", "StatefulSet", short=["sts"], categories=["all"], group="apps",
             subresources=[SCALE, ("status", "StatefulSet", STATUS)]),
    Resource("selfsubjectaccessreviews", "SelfSubjectAccessReview", ["create"], False, group="authorization.k8s.io"),
    Resource("selfsubjectrulesreviews", "SelfSubjectRulesReview", ["create"], False, group="authorization.k8s.io"),
    Resource("selfsubjectreviews", "SelfSubjectReview", ["create"], False, group="authentication.k8s.io"),
    Resource("endpointslices", "EndpointSlice", group="discovery.k8s.io"),
]  # fmt: skip
GROUPS = sorted({resource.group for resource in RESOURCES if resource.group})


def find(group, name):
    return next((r for r in RESOURCES if r.group == group and r.name == name), None)


def answer(path, accept):
    """The object for one of discovery's paths and its media type; None where it is no such path."""
    path = path.rstrip("/")
    if path in ("/api", "/apis") and "as=APIGroupDiscoveryList" in accept:
        kind = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
        return _aggregated([""] if path == "/api" else GROUPS), kind
    found = _plain(path)
    return None if found is None else (found, "application/json")


def _plain(path):
    if path == "/version":
        return VERSION
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
    if path == "/apis":
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(group) for group in GROUPS]}
    if path == "/api/v1":
        return _resources("")
    for group in GROUPS:
        if path == f"/apis/{group}":
            return {"kind": "APIGroup", "apiVersion": "v1", **_group(group)}
        if path == f"/apis/{group}/v1":
            return _resources(group)
    return None


def _group(group):
    version = {"groupVersion": f"{group}/v1", "version": "v1"}
    return {"name": group, "versions": [version], "preferredVersion": version}


def _resources(group):
    listed = []
    for resource in (r for r in RESOURCES if r.group == group):
        entry = {"name": resource.name, "singularName": resource.singular, "namespaced": resource.namespaced}
        entry |= {"kind": resource.kind, "verbs": resource.verbs}
        if resource.short:
            entry["shortNames"] = resource.short
        if resource.categories:
            entry["categories"] = resource.categories
        listed.append(entry)
        for name, kind, verbs in resource.subresources:
            sub = {"name": f"{resource.name}/{name}", "singularName": "", "namespaced": resource.namespaced}
            if kind == "Scale":
                sub |= {"group": "autoscaling", "version": "v1"}
            listed.append({**sub, "kind": kind, "verbs": verbs})
    version = f"{group}/v1" if group else "v1"
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": listed}


def _aggregated(groups):
    items = []
    for group in groups:
        resources = []
        for resource in (r for r in RESOURCES if r.group == group):
            kind = {"group": group, "version": "v1", "kind": resource.kind}
            entry = {
                "resource": resource.name,
                "responseKind": kind,
                "scope": "Namespaced" if resource.namespaced else "Cluster",
            }
            entry |= {"singularResource": resource.singular, "verbs": resource.verbs}
            if resource.short:
                entry["shortNames"] = resource.short
            if resource.categories:
                entry["categories"] = resource.categories
            if resource.subresources:
                entry["subresources"] = [
                    {"subresource": name, "responseKind": {"group": group, "version": "v1", "kind": kind}, "verbs": verbs}
                    for name, kind, verbs in resource.subresources
                ]
            resources.append(entry)
        versions = [{"version": "v1", "resources": resources, "freshness": "Current"}]
        items.append({"metadata": {"name": group} if group else {}, "versions": versions})
    return {"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items}
