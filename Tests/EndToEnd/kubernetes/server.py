"""The listener: TLS with an authority of its own, in a thread; it can go away and come back at the same address."""

import asyncio
import contextlib
import datetime
import ipaddress
import pathlib
import socket
import ssl
import threading

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from .api import API
from .web import Exchange, Gone


def make_certificates(folder):
    """Writes ca.crt, server.crt and server.key."""
    folder = pathlib.Path(folder)
    start = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)

    def certificate(name, key, issuer, issuer_key, extensions):
        builder = x509.CertificateBuilder().subject_name(_name(name)).issuer_name(_name(issuer)).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(start)
        builder = builder.not_valid_after(start + datetime.timedelta(days=30))
        for extension, is_critical in extensions:
            builder = builder.add_extension(extension, is_critical)
        return builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    authority, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    basic = (x509.BasicConstraints(ca=True, path_length=None), True)
    (folder / "ca.crt").write_bytes(certificate("test-ca", authority, "test-ca", authority, [basic]))
    (folder / "server.crt").write_bytes(certificate("kube-apiserver", own, "test-ca", authority, [(names, False)]))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "server.key").write_bytes(own.private_bytes(*form))


def _name(text):
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


class Server:
    """Serves from `start()` on. What is asked of `api` from other threads is safe where its parts say so."""

    def __init__(self, store, runtime, folder):
        self.folder = pathlib.Path(folder)
        make_certificates(self.folder)
        self.loop = asyncio.new_event_loop()
        self.api = API(store, runtime, self.loop)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.folder / "server.crt", self.folder / "server.key")
        self._context.set_alpn_protocols(["http/1.1"])
        self._open = set()
        self._listener = None
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def _call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    @property
    def url(self):
        return f"https://127.0.0.1:{self.port}"

    def start(self):
        self._call(self._start())

    async def _start(self):
        options = {"ssl": self._context, "limit": 1 << 20, "backlog": 256, "reuse_address": True}
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port, **options)

    def stop(self):
        """As kill -9 of an API server: nobody listens, and every connection breaks. Pods go on."""
        self._call(self._stop())

    async def _stop(self):
        if self._listener:
            self._listener.close()
            self._listener = None
        for exchange in list(self._open):
            exchange.cut()

    def close(self):
        self.stop()
        self._call(self._end_tasks())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()

    async def _end_tasks(self):
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader, writer):
        exchange = Exchange(reader, writer)
        self._open.add(exchange)
        try:
            while request := await exchange.request():
                await self.api.handle(exchange, request)
                if writer.transport.is_closing():
                    break
        except (Gone, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._open.discard(exchange)
            with contextlib.suppress(Exception):
                writer.close()
