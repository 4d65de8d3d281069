"""A service: answers each request on its ports with its name. With WORKERS it leaves that many children in its group."""

import os
import signal
import subprocess
import sys
import threading

from web import WebServer

name, *ports = sys.argv[1:]
servers = [WebServer(name, port=int(port)) for port in ports]
children = [subprocess.Popen(["sleep", "1000"]) for _ in range(int(os.environ.get("WORKERS", "0")))]
if os.environ.get("DEAF"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(f"{name} listens", flush=True)
threading.Event().wait()
