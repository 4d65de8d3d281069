"""An HTTP server that says who it is and whom it sees, over IPv4 and IPv6. Runs in containers: nothing but Python."""

import argparse
import http.server
import socket
import socketserver


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # A byte and its answer at once, also on a connection that is kept.
    disable_nagle_algorithm = True

    def do_GET(self):
        client = self.client_address[0].removeprefix("::ffff:")
        body = f"{self.server.who} {client}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 1024
    daemon_threads = True

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # Without the look-up of the host's name, which takes seconds where there is no name server.
        socketserver.TCPServer.server_bind(self)

    def get_request(self):
        while True:
            try:
                return super().get_request()
            except ConnectionError:
                pass

    def handle_error(self, *_):
        """A client that is gone is no news."""


parser = argparse.ArgumentParser()
parser.add_argument("--name", default=socket.gethostname())
parser.add_argument("--host", default="::")
parser.add_argument("--port", type=int, required=True)
flags = parser.parse_args()
host = flags.host if ":" in flags.host else f"::ffff:{flags.host}"
server = Server((host, flags.port), Handler)
server.who = flags.name
print("ready", flush=True)
server.serve_forever()
