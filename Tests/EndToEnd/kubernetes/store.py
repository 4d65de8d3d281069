"""The objects of a cluster, each change with a version of its own, as etcd and the watch cache keep them."""

import copy
import datetime
import threading
import uuid

from . import failures


def now():
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


class Event:
    """A change of one object: what it was and what it is; None is no object."""

    def __init__(self, version, key, before, after):
        self.version, self.key, self.before, self.after = version, key, before, after


class Store:
    """Objects by (resource, namespace, name). What is handed out is never changed: a change makes a new object."""

    # Events that are kept at most; who asks for older ones gets 410.
    KEPT = 20_000

    def __init__(self):
        self.lock = threading.RLock()
        self.version = 1000
        # From this version on every event is kept.
        self.oldest = 1000
        self.events = []
        self._objects = {}
        # Called with each event, with the lock held; none may wait.
        self.listeners = []

    def get(self, resource, namespace, name):
        with self.lock:
            return self._objects.get((resource, namespace, name))

    def list(self, resource, namespace=None):
        """The version, and the objects by namespace and name."""
        with self.lock:
            keys = sorted(key for key in self._objects if key[0] == resource and namespace in (None, key[1]))
            return self.version, [self._objects[key] for key in keys]

    def create(self, resource, found):
        """Puts in a new object, and returns it as it is now."""
        fresh = copy.deepcopy(found)
        metadata = fresh.setdefault("metadata", {})
        metadata["uid"] = str(uuid.uuid4())
        metadata["creationTimestamp"] = now()
        key = (resource, metadata.get("namespace", ""), metadata["name"])
        with self.lock:
            if key in self._objects:
                raise failures.exists(resource, metadata["name"])
            return self._put(key, fresh)

    def change(self, resource, namespace, name, make):
        """Calls make with a copy, which it changes; without a difference there is no new version. None: there is no object."""
        with self.lock:
            key = (resource, namespace, name)
            if key not in self._objects:
                return None
            fresh = copy.deepcopy(self._objects[key])
            make(fresh)
            return self.replace(key, fresh)

    def replace(self, key, fresh):
        with self.lock:
            if fresh == self._objects[key]:
                return self._objects[key]
            return self._put(key, fresh)

    def delete(self, resource, namespace, name):
        """The object as it was, with the version of its end; None: there was none."""
        with self.lock:
            before = self._objects.pop((resource, namespace, name), None)
            if before is None:
                return None
            self.version += 1
            last = copy.deepcopy(before)
            last["metadata"]["resourceVersion"] = str(self.version)
            self._tell(Event(self.version, (resource, namespace, name), last, None))
            return last

    def _put(self, key, fresh):
        self.version += 1
        fresh["metadata"]["resourceVersion"] = str(self.version)
        before, self._objects[key] = self._objects.get(key), fresh
        self._tell(Event(self.version, key, before, fresh))
        return fresh

    def _tell(self, event):
        self.events.append(event)
        if len(self.events) > self.KEPT:
            self.oldest = self.events[self.KEPT // 4].version
            del self.events[: self.KEPT // 4 + 1]
        for listener in list(self.listeners):
            listener(event)

    def compact(self):
        """All events are forgotten, as etcd forgets those older than five minutes."""
        with self.lock:
            self.version += 1
            self.oldest = self.version
            self.events.clear()

    def since(self, version, resource, namespace):
        """Events after this version, and the version that is reached with them; raises where some are forgotten."""
        with self.lock:
            if version < self.oldest:
                raise failures.expired(version, self.oldest)
            first = len(self.events)
            while first and self.events[first - 1].version > version:
                first -= 1
            wanted = [e for e in self.events[first:] if e.key[0] == resource and namespace in (None, e.key[1])]
            return self.version, wanted
