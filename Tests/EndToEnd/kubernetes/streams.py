"""`pods/NAME/exec` over WebSocket or SPDY, and `pods/NAME/log`."""

import asyncio
import contextlib
import json

from . import failures
from .faults import Open
from .spdy import Spdy
from .web import Gone

STDIN, STDOUT, STDERR, STATUS, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
V5, V4 = "v5.channel.k8s.io", "v4.channel.k8s.io"


def container_of(pod, asked):
    """The container that is meant; raises 400 where that can't be said."""
    name, spec = pod["metadata"]["name"], pod["spec"]
    names = [c["name"] for c in spec["containers"]]
    names += [c["name"] for c in (spec.get("initContainers") or []) + (spec.get("ephemeralContainers") or [])]
    if asked:
        if asked not in names:
            raise failures.bad_request(f"container {asked} is not valid for pod {name}")
        return asked
    if len(spec["containers"]) > 1:
        listed = " ".join(c["name"] for c in spec["containers"])
        raise failures.bad_request(f"a container name must be specified for pod {name}, choose one of: [{listed}]")
    return names[0]


def require_node(pod):
    if not pod["spec"].get("nodeName"):
        raise failures.bad_request(f"pod {pod['metadata']['name']} does not have a host assigned")


async def execute(api, exchange, request, pod, about):
    """Runs a command in a container; everything but the request's own mistakes is told through the stream."""
    container = container_of(pod, request.first("container"))
    require_node(pod)
    if not request.query.get("command"):
        raise failures.bad_request("you must specify at least 1 command for the container")
    if not request.wants_upgrade:
        raise failures.bad_request("Upgrade request required")
    # A container that isn't there is told before the upgrade, a command that isn't there after it.
    try:
        command = api.runtime.exec_command(pod, container, request.query["command"])
    except failures.PlainFailure:
        raise
    except failures.Failure as failure:
        if failure.reason != "InternalError":
            raise
        command = failure
    socket = await _upgrade(exchange, request)
    stream = api.streams.add(Open(api.loop, exchange, about))
    stream.socket = socket
    try:
        await _Execution(api, socket, request, pod, command).run()
    except Gone:
        pass
    finally:
        api.streams.remove(stream)
        with contextlib.suppress(Gone):
            await socket.close()
        exchange.cut()


async def _upgrade(exchange, request):
    """Goes over to what the client wants: WebSocket or SPDY."""
    if request.headers["upgrade"].lower() == "websocket":
        socket = await exchange.web_socket(request, (V5, V4))
        if socket is None:
            raise failures.bad_request("Upgrade request required")
        return socket
    offered = [word.strip() for word in request.headers.get("x-stream-protocol-version", "").split(",")]
    if request.headers["upgrade"].upper() != "SPDY/3.1" or V4 not in offered:
        raise failures.Failure(
            403, "", f"unable to upgrade: unable to negotiate protocol: client supports {offered}, server accepts [{V4}]"
        )
    await exchange.switch("SPDY/3.1", X_Stream_Protocol_Version=V4)
    socket = Spdy(exchange, V5)
    await socket.accept(["error", *(name for name in ("stdin", "stdout", "stderr") if request.is_true(name))])
    return socket


class _Execution:
    def __init__(self, api, socket, request, pod, command):
        self.api, self.socket, self.request, self.pod, self.command = api, socket, request, pod, command

    async def run(self):
        if isinstance(self.command, failures.Failure):
            await self._status(self.command.status)
            return
        wanted = {name: self.request.is_true(name) for name in ("stdin", "stdout", "stderr")}
        pipe = {name: asyncio.subprocess.PIPE if on else asyncio.subprocess.DEVNULL for name, on in wanted.items()}
        process = await asyncio.create_subprocess_exec(
            *self.command, **pipe, env=self.api.runtime.variables(self.pod), start_new_session=True
        )
        inward = asyncio.create_task(self._take(process))
        outward = [
            self._give(channel, source) for channel, source in ((STDOUT, process.stdout), (STDERR, process.stderr)) if source
        ]
        ending = asyncio.gather(*outward, process.wait())
        try:
            await asyncio.wait([ending, inward], return_when=asyncio.FIRST_COMPLETED)
            if not ending.done() and not inward.cancelled():
                # The client has gone. The command isn't killed: it sees the end of its input, as with a real kubelet.
                return
            await ending
            await self._status(_ended(process.returncode))
        finally:
            ending.cancel()
            inward.cancel()
            await asyncio.gather(ending, inward, return_exceptions=True)
            if process.stdin:
                process.stdin.close()
            self.api.background(process.wait())

    async def _take(self, process):
        """What the client sends, until it goes."""
        while (message := await self.socket.receive()) is not None:
            if not message or not process.stdin:
                continue
            if message[0] == STDIN and len(message) > 1:
                with contextlib.suppress(ConnectionError, RuntimeError):
                    process.stdin.write(message[1:])
                    await process.stdin.drain()
            elif message[0] == CLOSE and message[1:] == bytes([STDIN]) and self.socket.protocol == V5:
                process.stdin.close()

    async def _give(self, channel, source):
        while data := await source.read(1 << 15):
            await self.socket.send(bytes([channel]) + data)

    async def _status(self, status):
        await self.socket.send(bytes([STATUS]) + json.dumps(status).encode())


def _ended(code):
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    code = 128 - code if code < 0 else code
    text = f"command terminated with non-zero exit code: command terminated with exit code {code}"
    causes = [{"reason": "ExitCode", "message": str(code)}]
    return {"metadata": {}, "status": "Failure", "message": text, "reason": "NonZeroExitCode", "details": {"causes": causes}}


async def log(api, exchange, request, pod, about):
    container = container_of(pod, request.first("container"))
    require_node(pod)
    path = api.runtime.log_file(pod, container)
    tail, limit = request.first("tailLines"), request.first("limitBytes")
    with open(path, "rb") as file:
        data = file.read()
        if tail:
            lines = data.splitlines(keepends=True)
            data = b"".join(lines[max(0, len(lines) - int(tail)) :])
        if limit:
            data = data[: int(limit)]
        if not request.is_true("follow"):
            await exchange.answer(200, data, kind="text/plain")
            return
        stream = api.streams.add(Open(api.loop, exchange, about))
        gone = asyncio.create_task(exchange.gone())
        try:
            await exchange.begin_stream("text/plain")
            while not gone.done() and not stream.is_ending:
                if data:
                    await exchange.send(data)
                ended = not api.runtime.is_running(pod, container)
                data = file.read()
                if not data:
                    if ended:
                        break
                    await asyncio.sleep(0.02)
            await exchange.end_stream()
        except Gone:
            pass
        finally:
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
            api.streams.remove(stream)
            exchange.cut()
