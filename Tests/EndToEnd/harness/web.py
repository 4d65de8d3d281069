"""A web server that says who it is: the only thing a test of an interception has to know."""

import http.server
import socket
import threading


class WebServer:
    """Answers GET with its name, and POST /ID by noting the id, so that a test sees what was run and where."""

    def __init__(self, name, host="127.0.0.1", port=0):
        self.name = name
        self.posted = []
        self.requests = 0
        lock = threading.Lock()
        body = name.encode()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = 1 << 16  # head and body in one segment

            def do_GET(self):
                self.answer()

            def do_POST(self):
                length = int(self.headers["Content-Length"])
                if len(self.rfile.read(length)) == length:
                    with lock:
                        web.posted.append(self.path.lstrip("/"))
                    self.answer()

            def answer(self):
                with lock:
                    web.requests += 1
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        class Listener(http.server.ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
            request_queue_size = 1024
            daemon_threads = True

            def handle_error(self, *_):
                pass  # a client that went away

        web = self
        self._listener = Listener((host, port), Handler)
        self.address = self._listener.server_address[:2]
        threading.Thread(target=self._listener.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self._listener.shutdown()
        self._listener.server_close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
