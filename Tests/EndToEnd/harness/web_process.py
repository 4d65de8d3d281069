"""A web server as a program: says its name, and keeps count of its requests in a file if it is told one."""

import argparse
import asyncio
import os
import pathlib
import signal


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--port", type=int, required=True, action="append")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--count", help="a file that holds how many requests were answered, at the end or on SIGUSR1")
    options = parser.parse_args()
    body = options.name.encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
    answered = 0

    async def serve(reader, writer):
        nonlocal answered
        try:
            if await reader.readuntil(b"\r\n\r\n"):
                answered += 1
                writer.write(head + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            pass  # a client that went away
        finally:
            writer.close()

    def note():
        if options.count:
            fresh = pathlib.Path(options.count + ".new")
            fresh.write_text(str(answered))
            os.replace(fresh, options.count)

    async def run():
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, done.set)
        loop.add_signal_handler(signal.SIGUSR1, note)
        for port in options.port:
            await asyncio.start_server(serve, options.host, port, backlog=1024)
        await done.wait()
        note()

    asyncio.run(run())


if __name__ == "__main__":
    main()
