"""HTTP/1.1 and WebSocket for the API server, on asyncio."""

import asyncio
import base64
import contextlib
import hashlib
import json
import struct
import urllib.parse

LIMIT = 3 << 20
REASONS = {
    101: "Switching Protocols", 200: "OK", 201: "Created", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden",
    404: "Not Found", 405: "Method Not Allowed", 409: "Conflict", 410: "Gone", 413: "Request Entity Too Large",
    415: "Unsupported Media Type", 422: "Unprocessable Entity", 429: "Too Many Requests", 500: "Internal Server Error",
    503: "Service Unavailable", 504: "Gateway Timeout",
}  # fmt: skip


class Gone(Exception):
    """The client has gone, or is cut off."""


class Request:
    def __init__(self, method, target, headers, body):
        self.method, self.target, self.headers, self.body = method, target, headers, body
        parts = urllib.parse.urlsplit(target)
        self.path = urllib.parse.unquote(parts.path)
        self.query = urllib.parse.parse_qs(parts.query, keep_blank_values=True)

    def first(self, name, usual=""):
        return self.query.get(name, [usual])[0]

    def is_true(self, name):
        return self.first(name).lower() in ("1", "true")

    @property
    def wants_upgrade(self):
        return "upgrade" in self.headers.get("connection", "").lower() and "upgrade" in self.headers


class Exchange:
    """One connection: reads requests and writes answers, one after the other."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.is_streaming = False
        # Set where the server shall answer no more: the connection stays open, silent.
        self.is_silent = False

    async def request(self):
        """The next one; None at the connection's end."""
        try:
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            return None
        first, *lines = head.split("\r\n")
        method, target, _ = first.split(" ", 2)
        headers = {}
        for line in filter(None, lines):
            name, _, value = line.partition(":")
            key, value = name.strip().lower(), value.strip()
            headers[key] = f"{headers[key]}, {value}" if key in headers else value
        body = await self._body(headers)
        return None if body is None else Request(method, target, headers, body)

    async def _body(self, headers):
        try:
            if headers.get("transfer-encoding", "").lower() == "chunked":
                parts, total = [], 0
                while size := int((await self.reader.readline()).split(b";")[0], 16):
                    total += size
                    if total > LIMIT:
                        return None
                    parts.append(await self.reader.readexactly(size))
                    await self.reader.readline()
                while (await self.reader.readline()).strip():
                    pass
                return b"".join(parts)
            length = int(headers.get("content-length") or 0)
            return await self.reader.readexactly(length) if 0 <= length <= LIMIT else None
        except (ValueError, asyncio.IncompleteReadError, ConnectionError):
            return None

    async def answer(self, code, value, headers=(), kind="application/json"):
        body = value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode() + b"\n"
        await self._write(self._head(code, {**dict(headers), "Content-Type": kind, "Content-Length": len(body)}) + body)

    async def begin_stream(self, kind="application/json"):
        self.is_streaming = True
        await self._write(self._head(200, {"Content-Type": kind, "Transfer-Encoding": "chunked"}))

    async def send(self, data):
        await self._write(b"%x\r\n%s\r\n" % (len(data), data))

    async def end_stream(self):
        self.is_streaming = False
        await self._write(b"0\r\n\r\n")

    @staticmethod
    def _head(code, headers):
        # The clock is read as late as can be: clients compare it with their own.
        from email.utils import formatdate

        lines = [
            f"HTTP/1.1 {code} {REASONS.get(code, 'Unknown')}",
            f"Date: {formatdate(usegmt=True)}",
            "Cache-Control: no-cache, private",
        ]
        return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode()

    async def _write(self, data):
        if self.is_silent:
            await asyncio.Event().wait()
        try:
            self.writer.write(data)
            await self.writer.drain()
        except (ConnectionError, RuntimeError) as error:
            raise Gone from error

    async def gone(self):
        """Returns once the client has ended the connection; what it sends meanwhile is thrown away."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(1 << 16):
                pass

    def cut(self):
        """Ends the connection at once, in the middle of whatever is being sent."""
        self.writer.transport.abort()

    async def switch(self, protocol, **headers):
        """Goes over to another protocol by this name."""
        lines = ["HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", f"Upgrade: {protocol}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self._write("\r\n".join([*lines, "", ""]).encode())

    async def web_socket(self, request, protocols):
        """Goes over to WebSocket with the first of these protocols that the client offers; None if it offers none."""
        offered = [word.strip() for word in request.headers.get("sec-websocket-protocol", "").split(",")]
        chosen = next((protocol for protocol in protocols if protocol in offered), None)
        if chosen is None:
            return None
        key = request.headers.get("sec-websocket-key", "") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        await self.switch("websocket", Sec_WebSocket_Accept=accept, Sec_WebSocket_Protocol=chosen)
        return WebSocket(self, chosen)


class WebSocket:
    """The server's end. Messages are bytes."""

    TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10

    def __init__(self, exchange, protocol):
        self.exchange, self.protocol = exchange, protocol
        self.pings = 0
        self._sending = asyncio.Lock()

    async def receive(self):
        """The next message; None at the end. Pings are answered, unless the exchange is silent."""
        parts = []
        while True:
            try:
                first, second = await self.exchange.reader.readexactly(2)
                length = second & 0x7F
                if length == 126:
                    (length,) = struct.unpack(">H", await self.exchange.reader.readexactly(2))
                elif length == 127:
                    (length,) = struct.unpack(">Q", await self.exchange.reader.readexactly(8))
                if not second & 0x80 or length > LIMIT:
                    return None
                mask = await self.exchange.reader.readexactly(4)
                data = _unmasked(await self.exchange.reader.readexactly(length), mask)
            except (asyncio.IncompleteReadError, ConnectionError):
                return None
            kind = first & 0xF
            if kind == self.CLOSE:
                with contextlib.suppress(Gone):
                    await self._frame(self.CLOSE, data[:2])
                return None
            if kind == self.PING:
                self.pings += 1
                await self._frame(self.PONG, data)
            elif kind != self.PONG:
                parts.append(data)
                if first & 0x80:
                    return b"".join(parts)

    async def send(self, data):
        await self._frame(self.BINARY, data)

    async def close(self, code=1000, text=""):
        with contextlib.suppress(Gone):
            await self._frame(self.CLOSE, struct.pack(">H", code) + text.encode())

    async def _frame(self, kind, data):
        size = len(data)
        if size < 126:
            head = bytes([0x80 | kind, size])
        elif size < 1 << 16:
            head = bytes([0x80 | kind, 126]) + struct.pack(">H", size)
        else:
            head = bytes([0x80 | kind, 127]) + struct.pack(">Q", size)
        async with self._sending:
            await self.exchange._write(head + data)


def _unmasked(data, mask):
    if not data:
        return data
    whole = (mask * (len(data) // 4 + 1))[: len(data)]
    return (int.from_bytes(data, "big") ^ int.from_bytes(whole, "big")).to_bytes(len(data), "big")
