"""The API server's answers: who asks, what is asked, whether that one may, and what comes of it."""

import asyncio
import base64
import copy
import json
import re
import secrets

from . import discovery, failures, patches, pod_rules, protobuf, selecting, streams
from .access import Access
from .faults import Faults, OpenStreams
from .store import now
from .watches import Watch

ALPHABET = "bcdfghjklmnpqrstvwxz2456789"


def suffix(length=5):
    return "".join(secrets.choice(ALPHABET) for _ in range(length))


class Asked:
    """What a path and its method mean."""

    def __init__(self, request):
        parts = request.path.strip("/").split("/")
        if parts[0] == "api" and parts[1:2] == ["v1"]:
            self.group, rest = "", parts[2:]
        elif parts[0] == "apis" and parts[2:3] == ["v1"]:
            self.group, rest = parts[1], parts[3:]
        elif parts[0] in ("api", "apis"):
            raise failures.no_such_path()
        else:
            raise failures.PlainFailure(404, "404 page not found\n")
        self.namespace = ""
        if rest[:1] == ["namespaces"] and len(rest) > 2:
            self.namespace, rest = rest[1], rest[2:]
        self.resource, self.name, self.subresource = (rest + ["", "", ""])[:3]
        self.kind = discovery.find(self.group, self.resource)
        known = {name for name, _, _ in self.kind.subresources} if self.kind else set()
        if self.kind is None or len(rest) > 3 or (self.subresource and self.subresource not in known):
            raise failures.no_such_path()
        if self.resource == "namespaces":
            self.namespace = self.name
        self.verb = self._verb(request)

    def _verb(self, request):
        if request.method == "GET":
            if self.name:
                return "get"
            return "watch" if request.is_true("watch") else "list"
        if request.method == "DELETE":
            return "delete" if self.name else "deletecollection"
        verb = {"POST": "create", "PUT": "update", "PATCH": "patch"}.get(request.method)
        if verb is None or (verb != "create" and not self.name):
            raise failures.method_not_allowed()
        return verb

    def about(self, user):
        keys = ("verb", "group", "resource", "subresource", "namespace", "name")
        return {**{key: getattr(self, key) for key in keys}, "user": user.name}


class API:
    def __init__(self, store, runtime, loop):
        self.store, self.runtime, self.loop = store, runtime, loop
        self.access, self.faults, self.streams = Access(), Faults(), OpenStreams()
        # Whether watches can begin with a list (sendInitialEvents).
        self.has_watch_lists = True
        self.bookmark_seconds, self.watch_seconds = 60, 1800
        self.requests = []
        self._pages = {}
        self._tasks = set()

    def background(self, coroutine):
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def handle(self, exchange, request):
        try:
            await self._handle(exchange, request)
        except failures.PlainFailure as failure:
            await exchange.answer(failure.code, failure.message.encode(), kind="text/plain; charset=utf-8")
        except failures.Failure as failure:
            await exchange.answer(failure.code, failure.status, failure.headers)

    @staticmethod
    def _named(request, verb):
        """A list or watch of one name is asked for by that name's rules, as a real server does."""
        match = re.fullmatch(r"metadata\.name=([^,]+)", request.first("fieldSelector") or "")
        return match[1] if match and verb in ("list", "watch") else ""

    async def _handle(self, exchange, request):
        # What is on the way while a fault ends a login has the new answer already.
        user = self.access.user_of(request.headers)
        if request.path in ("/healthz", "/livez", "/readyz"):
            await exchange.answer(200, b"ok", kind="text/plain; charset=utf-8")
            return
        if found := discovery.answer(request.path, request.headers.get("accept", "")):
            self._note(request, {"path": request.path, "user": user.name})
            if user.name == "system:anonymous" and request.path != "/version":
                raise failures.forbidden_path(user.name, "get", request.path)
            await exchange.answer(200, found[0], kind=found[1])
            return
        asked = Asked(request)
        about = asked.about(user)
        self._note(request, about)
        if fault := self.faults.take(about):
            await asyncio.sleep(fault.delay)
            if fault.cut:
                exchange.cut()
                return
            if fault.failure:
                raise fault.failure
        if asked.kind.verbs != ["create"]:
            name = asked.name or self._named(request, asked.verb)
            self.access.require(user, asked.verb, asked.group, asked.resource, asked.subresource, asked.namespace, name)
        elif asked.verb != "create":
            raise failures.method_not_allowed()
        if asked.subresource == "exec" and asked.verb == "get":
            # By WebSocket, which begins with a GET: the right to read a subresource isn't enough to run something.
            self.access.require(user, "create", asked.group, asked.resource, asked.subresource, asked.namespace, asked.name)
        await self._answer(exchange, request, asked, user, about)

    def _note(self, request, about):
        self.requests.append({**about, "method": request.method, "target": request.target})
        del self.requests[:-10_000]

    async def _answer(self, exchange, request, asked, user, about):
        if asked.subresource in ("exec", "log"):
            pod = self._found(asked)
            serve = streams.execute if asked.subresource == "exec" else streams.log
            await serve(self, exchange, request, pod, about)
        elif asked.verb == "watch":
            await Watch(
                self, exchange, request, asked.kind, asked.namespace or None, self._matches(request, asked), about
            ).serve()
        elif asked.verb == "list":
            await exchange.answer(200, self._list(request, asked))
        elif asked.verb == "get":
            await exchange.answer(200, self._whole(asked, self._found(asked)))
        elif asked.verb == "create":
            found = self._body(request)
            answer = self._reviewed(asked, user, found) or self.whole(
                asked.kind, self.create(asked, found, self._is_dry(request))
            )
            await exchange.answer(201, answer)
        elif asked.verb in ("patch", "update"):
            await exchange.answer(200, self._changed(request, asked))
        else:
            await exchange.answer(200, self._deleted(request, asked))

    def _found(self, asked):
        found = self.store.get(asked.resource, "" if asked.resource == "namespaces" else asked.namespace, asked.name)
        if found is None:
            raise failures.not_found(asked.resource, asked.name, asked.group)
        return found

    @staticmethod
    def whole(kind, found):
        return {"kind": kind.kind, "apiVersion": kind.api_version, **found}

    def _whole(self, asked, found):
        if asked.subresource != "scale":
            return self.whole(asked.kind, found)
        keys = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
        metadata = {key: found["metadata"][key] for key in keys}
        selector = ",".join(f"{k}={v}" for k, v in found["spec"]["selector"]["matchLabels"].items())
        status = {"replicas": found.get("status", {}).get("replicas", 0), "selector": selector}
        scale = {"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata}
        return {**scale, "spec": {"replicas": found["spec"]["replicas"]}, "status": status}

    # Lists

    def _matches(self, request, asked):
        by_labels = selecting.labels(request.first("labelSelector"))
        by_fields = selecting.fields(request.first("fieldSelector"), asked.resource)
        return lambda found: by_labels(found) and by_fields(found)

    def _list(self, request, asked):
        matches = self._matches(request, asked)
        limit, token = int(request.first("limit") or 0), request.first("continue")
        if token:
            try:
                # Bounded: the oldest are forgotten, as a real server forgets after five minutes.
                version, left = self._pages[json.loads(base64.urlsafe_b64decode(token))["page"]]
            except KeyError:
                raise failures.expired_continue() from None
            except (ValueError, TypeError) as error:
                raise failures.bad_request(f"invalid continue token: continue key is not valid: {error}") from None
        else:
            version, objects = self.store.list(asked.resource, asked.namespace or None)
            self._check_version(request, version)
            left = [found for found in objects if matches(found)]
        metadata = {"resourceVersion": str(version)}
        items = left[:limit] if limit else left
        if len(items) < len(left):
            page = suffix(12)
            self._pages[page] = (version, left[limit:])
            for old in list(self._pages)[:-100]:
                del self._pages[old]
            metadata["continue"] = base64.urlsafe_b64encode(json.dumps({"v": "meta.k8s.io/v1", "page": page}).encode()).decode()
            if not request.first("labelSelector") and not request.first("fieldSelector"):
                metadata["remainingItemCount"] = len(left) - limit
        return {"kind": f"{asked.kind.kind}List", "apiVersion": asked.kind.api_version, "metadata": metadata, "items": items}

    def _check_version(self, request, current):
        asked = int(request.first("resourceVersion") or 0)
        if asked > current:
            raise failures.too_large_version(asked, current)
        if asked and request.first("resourceVersionMatch") == "Exact" and asked < self.store.oldest:
            raise failures.expired(asked, self.store.oldest)

    def forget_pages(self):
        self._pages.clear()

    # Changes

    @staticmethod
    def _is_dry(request):
        asked = request.query.get("dryRun", [])
        if asked and asked != ["All"]:
            text = f'Unsupported value: {json.dumps(asked)}: supported values: "All"'
            raise failures.invalid("PatchOptions", "", [("dryRun", "FieldValueNotSupported", text)], group="meta.k8s.io")
        return bool(asked)

    @staticmethod
    def _body(request):
        try:
            return protobuf.decode(request.body) if request.body.startswith(protobuf.MAGIC) else json.loads(request.body)
        except (ValueError, KeyError, IndexError) as error:
            raise failures.bad_request(f"the object provided is unrecognized (must be of type ...): {error}") from None

    def _reviewed(self, asked, user, found):
        reviews = {"selfsubjectaccessreviews": self.access.review, "selfsubjectrulesreviews": self.access.rules_review}
        if asked.resource in reviews:
            return reviews[asked.resource](user, found)
        return self.access.self_review(user) if asked.resource == "selfsubjectreviews" else None

    def create(self, asked, found, is_dry=False):
        fresh = copy.deepcopy(found)
        for key in ("kind", "apiVersion"):
            fresh.pop(key, None)
        metadata = fresh.setdefault("metadata", {})
        if "name" not in metadata:
            metadata["name"] = metadata.get("generateName", "") + suffix()
        if asked.kind.namespaced:
            metadata["namespace"] = asked.namespace
            namespace = self.store.get("namespaces", "", asked.namespace)
            if namespace is None:
                raise failures.not_found("namespaces", asked.namespace)
        with self.store.lock:
            self.runtime.fill_in(asked.resource, fresh)
            if asked.resource == "pods":
                pod_rules.check_security(fresh, namespace)
            if is_dry:
                return {**fresh, "metadata": {**metadata, "uid": "", "creationTimestamp": now()}}
            return self.store.create(asked.resource, fresh)

    def _changed(self, request, asked):
        if request.method == "PATCH":
            kind = request.headers.get("content-type", "").split(";")[0].strip()
            if kind not in patches.KINDS:
                raise failures.unsupported_media_type()
            patch = self._body(request)

            def make(found):
                return patches.apply(patches.KINDS[kind], found, patch)
        else:
            fresh = self._body(request)

            def make(_):
                return fresh

        with self.store.lock:
            before = self._found(asked)
            after = self._made(asked, before, make)
            if self._is_dry(request):
                return self._whole(asked, after)
            key = (asked.resource, before["metadata"].get("namespace", ""), asked.name)
            return self._whole(asked, self.store.replace(key, after))

    def _made(self, asked, before, make):
        shown = self._whole(asked, before)
        after = make(shown)
        metadata = after.get("metadata") or {}
        version = metadata.get("resourceVersion")
        if version and version != before["metadata"]["resourceVersion"]:
            raise failures.conflict(asked.resource, asked.name, asked.group)
        if metadata.get("name", asked.name) != asked.name:
            raise failures.bad_request("the name of the object does not match the name on the URL")
        if asked.subresource == "scale":
            return {**before, "spec": {**before["spec"], "replicas": int(after["spec"]["replicas"])}}
        if asked.subresource == "status":
            return {**before, "status": after.get("status", {})}
        if asked.subresource == "ephemeralcontainers":
            wanted = after["spec"].get("ephemeralContainers") or []
            if not isinstance(wanted, list) or not all(isinstance(entry, dict) for entry in wanted):
                raise failures.bad_request("json: cannot unmarshal")
            wanted = [pod_rules.with_defaults(dict(entry)) for entry in wanted]
            after = {**before, "spec": {**before["spec"], "ephemeralContainers": wanted}}
            pod_rules.check_ephemeral(before, after)
            pod_rules.check_security(after, self.store.get("namespaces", "", asked.namespace))
            return after
        after = {key: value for key, value in after.items() if key not in ("kind", "apiVersion")}
        after["metadata"] = {**metadata, **{k: before["metadata"][k] for k in ("uid", "creationTimestamp", "resourceVersion")}}
        for key in ("labels", "annotations"):
            if not after["metadata"].get(key, True):
                del after["metadata"][key]
        if "status" in before:
            after["status"] = before["status"]
        if asked.resource == "pods" and after["spec"] != before["spec"]:
            text = "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
            text += "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
            text += "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n"
            raise failures.invalid("Pod", asked.name, [("spec", "FieldValueForbidden", text)])
        return after

    def _deleted(self, request, asked):
        if not asked.name:
            matches = self._matches(request, asked)
            _, objects = self.store.list(asked.resource, asked.namespace or None)
            items = [found for found in objects if matches(found)]
            for found in items:
                self.delete(asked.resource, found, None)
            return {"kind": f"{asked.kind.kind}List", "apiVersion": asked.kind.api_version, "metadata": {}, "items": items}
        found = self._found(asked)
        options = self._body(request) if request.body.strip() else {}
        seconds = request.first("gracePeriodSeconds") or options.get("gracePeriodSeconds")
        conditions = options.get("preconditions") or {}
        if conditions.get("uid", found["metadata"]["uid"]) != found["metadata"]["uid"]:
            raise failures.conflict(asked.resource, asked.name, asked.group)
        if self._is_dry(request):
            return self.whole(asked.kind, found)
        last = self.delete(asked.resource, found, None if seconds is None else int(seconds))
        if asked.resource in ("pods", "namespaces", "services"):
            return self.whole(asked.kind, last)
        details = {"name": asked.name, "group": asked.group, "kind": asked.resource, "uid": found["metadata"]["uid"]}
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}

    def delete(self, resource, found, seconds):
        """A pod ends in its time, anything else at once. Returns the last that is known of it."""
        metadata = found["metadata"]
        key = (resource, metadata.get("namespace", ""), metadata["name"])
        if resource != "pods" or not found["spec"].get("nodeName") or seconds == 0:
            return self.store.delete(*key) or found
        grace = found["spec"].get("terminationGracePeriodSeconds", 30) if seconds is None else seconds

        def mark(pod):
            known = pod["metadata"].get("deletionGracePeriodSeconds")
            if known is None or grace < known:
                pod["metadata"]["deletionTimestamp"] = now() if known is None else pod["metadata"]["deletionTimestamp"]
                pod["metadata"]["deletionGracePeriodSeconds"] = grace

        return self.store.change(*key, mark) or found
