"""Watches: lines of JSON from a version on, with bookmarks."""

import asyncio
import json

from . import failures
from .faults import Open
from .web import Gone

INITIAL_END = "k8s.io/initial-events-end"


class Watch:
    """One watch, from the request to its end."""

    def __init__(self, api, exchange, request, kind, namespace, matches, about):
        self.api, self.exchange, self.request, self.kind = api, exchange, request, kind
        self.namespace, self.matches = namespace, matches
        self.open = Open(api.loop, exchange, about)
        self._changed = asyncio.Event()
        self.open.on_change = self._changed.set

    async def serve(self):
        start = self._start()
        loop = asyncio.get_running_loop()

        def listen(event):
            if event.key[0] == self.kind.name:
                loop.call_soon_threadsafe(self._changed.set)

        self.api.store.listeners.append(listen)
        self.api.streams.add(self.open)
        await self.exchange.begin_stream()
        gone = asyncio.create_task(self.exchange.gone())
        told = asyncio.create_task(self._tell(start))
        is_over = False
        try:
            await asyncio.wait([gone, told], return_when=asyncio.FIRST_COMPLETED)
            if told.done() and not told.exception():
                await self.exchange.end_stream()
                is_over = True
        except Gone:
            pass
        finally:
            self.api.store.listeners.remove(listen)
            self.api.streams.remove(self.open)
            for task in (gone, told):
                task.cancel()
            await asyncio.gather(gone, told, return_exceptions=True)
            if not is_over:
                self.exchange.cut()

    def _start(self):
        """(version, initial objects, whether their end is marked); raises where the question is wrong."""
        first = self.request.first
        asked, match = first("resourceVersion"), first("resourceVersionMatch")
        initial = first("sendInitialEvents").lower()
        causes = []
        if initial:
            if not self.api.has_watch_lists:
                text = "Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled"
                causes.append(("sendInitialEvents", "FieldValueForbidden", text))
            elif match != "NotOlderThan":
                text = "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
                causes.append(("resourceVersionMatch", "FieldValueForbidden", text))
        elif match:
            text = "Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
            causes.append(("resourceVersionMatch", "FieldValueForbidden", text))
        if causes:
            raise failures.invalid("ListOptions", "", causes, group="meta.k8s.io")
        try:
            version = int(asked or 0)
        except ValueError:
            raise failures.invalid_version(asked) from None
        marks = initial == "true" and self.request.is_true("allowWatchBookmarks")
        if initial == "true" or (not version and initial != "false"):
            current, objects = self.api.store.list(self.kind.name, self.namespace)
            if version > current:
                raise failures.too_large_version(version, current)
            return current, [found for found in objects if self.matches(found)], marks
        return version or self.api.store.version, [], False

    async def _tell(self, start):
        version, initial, marks = start
        for found in initial:
            await self._line("ADDED", self.api.whole(self.kind, found))
        if marks:
            await self._bookmark(version, {INITIAL_END: "true"})
        loop = asyncio.get_running_loop()
        seconds = self.request.first("timeoutSeconds")
        ends = loop.time() + (int(seconds) if seconds else self.api.watch_seconds)
        bookmark = loop.time() + self.api.bookmark_seconds
        while not self.open.is_ending and loop.time() < ends:
            self._changed.clear()
            try:
                version, events = self.api.store.since(version, self.kind.name, self.namespace)
            except failures.Failure as failure:
                await self._line("ERROR", failure.status)
                return
            for event in events:
                if line := self._event(event):
                    await self._line(*line)
            if loop.time() >= bookmark:
                bookmark = loop.time() + self.api.bookmark_seconds
                if self.request.is_true("allowWatchBookmarks"):
                    await self._bookmark(version, {})
            if self.open.is_ending:
                break
            try:
                await asyncio.wait_for(self._changed.wait(), max(0, min(ends, bookmark) - loop.time()))
            except asyncio.TimeoutError:
                pass
        if self.open.failure:
            await self._line("ERROR", self.open.failure.status)

    def _event(self, event):
        """A change as this watch sees it: an object that no longer matches is deleted for it."""
        was = event.before is not None and self.matches(event.before)
        is_now = event.after is not None and self.matches(event.after)
        if is_now:
            return ("MODIFIED" if was else "ADDED"), self.api.whole(self.kind, event.after)
        if was:
            last = {**event.before, "metadata": {**event.before["metadata"], "resourceVersion": str(event.version)}}
            return "DELETED", self.api.whole(self.kind, last)
        return None

    async def _bookmark(self, version, annotations):
        metadata = {"resourceVersion": str(version)}
        if annotations:
            metadata["annotations"] = annotations
        empty = {"kind": self.kind.kind, "apiVersion": self.kind.api_version, "metadata": metadata}
        if self.kind.name == "pods":
            empty |= {"spec": {"containers": None}, "status": {}}
        elif self.kind.name == "services":
            empty |= {"spec": {}, "status": {"loadBalancer": {}}}
        await self._line("BOOKMARK", empty)

    async def _line(self, kind, found):
        await self.exchange.send(json.dumps({"type": kind, "object": found}, separators=(",", ":")).encode() + b"\n")
