"""An echo server for thousands of connections: one thread for all of them."""

import asyncio
import threading


class IdleServer:
    def __init__(self, host="127.0.0.1"):
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._echo, host, 0, backlog=4096))
        self.address = self._server.sockets[0].getsockname()[:2]
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    async def _echo(self, reader, writer):
        try:
            while data := await reader.read(4096):
                writer.write(data)
        except OSError:
            pass
        finally:
            writer.close()

    def close(self):
        self._loop.call_soon_threadsafe(self._server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
