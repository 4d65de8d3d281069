"""SPDY/3.1, as much as exec needs: what kubectl falls back on where a WebSocket is refused."""

import asyncio
import contextlib
import struct
import zlib

from .web import Gone

# The dictionary of the header blocks (SPDY/3, section 2.6.10.1): words with their lengths, and then some text.
WORDS = """options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow
authorization cache-control connection content-base content-encoding content-language content-length content-location content-md5
content-range content-type date etag expect expires from host if-match if-modified-since if-none-match if-range
if-unmodified-since last-modified location max-forwards pragma proxy-authenticate proxy-authorization range referer retry-after
server te trailer transfer-encoding upgrade user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1
url public set-cookie keep-alive origin"""
TEXT = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Authoritative "
    "Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 Internal Server "
    "Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, "
    "Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,"
    "text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)


def _text(word):
    return struct.pack(">I", len(word)) + word.encode()


DICTIONARY = b"".join(_text(word.replace("_", " ")) for word in WORDS.split()) + TEXT.encode()
SYN_STREAM, SYN_REPLY, RST_STREAM, PING, GOAWAY = 1, 2, 3, 6, 7
FIN = 1
CHANNELS = {"stdin": 0, "stdout": 1, "stderr": 2, "error": 3, "resize": 4}
CLOSE = 255
LIMIT = 1 << 20


class Spdy:
    """The server's end of an exec's streams, used as a WebSocket's channels are: messages begin with a channel's number."""

    def __init__(self, exchange, protocol):
        self.exchange, self.protocol = exchange, protocol
        self.pings = 0
        self._numbers, self._channels = {}, {}
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(zdict=DICTIONARY)
        self._sending = asyncio.Lock()

    async def accept(self, wanted):
        """Waits until the client has opened these streams."""
        while not set(wanted) <= set(self._numbers):
            if await self._frame() is None:
                raise Gone

    async def receive(self):
        while True:
            message = await self._frame()
            if message is None or message:
                return message

    async def _frame(self):
        """The next message; empty where there is none in the frame, None at the end."""
        try:
            head, size = struct.unpack(">II", await self.exchange.reader.readexactly(8))
            flags, size = size >> 24, size & 0xFF_FFFF
            if size > LIMIT:
                return None
            data = await self.exchange.reader.readexactly(size)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        if head >> 31:
            return await self._control(head & 0xFFFF, data)
        channel = self._channels.get(head)
        if channel is None:
            return b""
        if flags & FIN and not data:
            return bytes([CLOSE, channel])
        return bytes([channel]) + data

    async def _control(self, kind, data):
        if kind == SYN_STREAM:
            (number,) = struct.unpack_from(">I", data)
            name = self._headers(data[10:]).get("streamtype", "")
            if name in CHANNELS:
                self._numbers[name], self._channels[number] = number, CHANNELS[name]
            block = self._deflate.compress(struct.pack(">I", 0)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
            await self._send_control(SYN_REPLY, struct.pack(">I", number) + block)
        elif kind == PING:
            self.pings += 1
            await self._send_control(PING, data)
        elif kind == GOAWAY:
            return None
        return b""

    def _headers(self, block):
        data, found, at = self._inflate.decompress(block), {}, 4
        for _ in range(struct.unpack_from(">I", data)[0]):
            pair = []
            for _ in range(2):
                (size,) = struct.unpack_from(">I", data, at)
                pair.append(data[at + 4 : at + 4 + size].decode())
                at += 4 + size
            found[pair[0].lower()] = pair[1]
        return found

    async def send(self, data):
        names = {number: name for name, number in CHANNELS.items()}
        await self._send_data(names[data[0]], data[1:])

    async def close(self, *_):
        """Ends the streams, and lets the client end the connection."""
        with contextlib.suppress(Gone):
            for name in self._numbers:
                await self._send_data(name, b"", FIN)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.exchange.gone(), 1)

    async def _send_data(self, name, data, flags=0):
        if name in self._numbers:
            async with self._sending:
                await self.exchange._write(struct.pack(">II", self._numbers[name], flags << 24 | len(data)) + data)

    async def _send_control(self, kind, data):
        async with self._sending:
            await self.exchange._write(struct.pack(">HHI", 0x8003, kind, len(data)) + data)
