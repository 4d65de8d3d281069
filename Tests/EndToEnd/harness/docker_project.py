"""Four services as `docker compose up` would leave them: the engine's own commands and the labels that compose writes."""

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

from .ports import free_port
from .processes import Process
from .waiting import NotSeen, eventually

PROGRAMS = pathlib.Path(__file__).with_name("in_containers")
MOUNT = ["--volume", f"{PROGRAMS}:/programs:ro"]
# Not each of them ends when it is asked to, as the first process of a container.
QUICK = ["--stop-timeout", "1"]
WHO_SERVER = ["python3", "-B", "/programs/who_server.py"]
POSTGRES = """
set -e
cd /etc/postgresql/*/main
chown -R postgres: /etc/postgresql /var/lib/postgresql
mkdir -p /var/run/postgresql && chown postgres: /var/run/postgresql
exec setpriv --reuid postgres --regid postgres --clear-groups \
    /usr/lib/postgresql/*/bin/postgres -c config_file=$PWD/postgresql.conf -c fsync=off -c ssl=off -c listen_addresses='*' "$@"
"""


def nginx_command(name, listen=("80", "[::]:80"), client="$remote_addr"):
    lines = " ".join(f"listen {text};" for text in listen)
    configuration = (
        "daemon off; worker_processes 1; error_log stderr warn; pid /tmp/nginx.pid; events { worker_connections 4096; } "
        "http { access_log off; keepalive_requests 1000000; keepalive_timeout 600s; "
        f'server {{ {lines} location / {{ return 200 "{name} {client}\\n"; }} }} }}'
    )
    return ["sh", "-c", 'printf %s "$1" > /tmp/nginx.conf && exec nginx -c /tmp/nginx.conf', "sh", configuration]


def redis_command(name, port=6379, bind="* -::*"):
    script = (
        'redis-server --port "$2" --bind $3 --protected-mode no --save "" & '
        'until redis-cli -p "$2" SET who "$1" >/dev/null 2>&1; do sleep 0.05; done; wait'
    )
    # exec would need two processes: the shell stays, and passes SIGTERM on.
    return ["sh", "-fc", "trap 'kill $!' TERM; " + script, "sh", name, str(port), bind]


def postgres_command(name, port=5432):
    return ["sh", "-c", POSTGRES, "sh", "-c", f"cluster_name={name}", "-c", f"port={port}"]


class Service:
    """A service of the project: how it speaks, on which port, and its containers."""

    def __init__(self, name, kind, port, published=None):
        self.name, self.kind, self.port, self.published = name, kind, port, published
        self.containers = []

    @property
    def container(self):
        return self.containers[0]


class DockerProject:
    """nginx, Redis, PostgreSQL, and a Python server with two replicas and a health check."""

    def __init__(self, engine, name="shop"):
        self.engine, self.name = engine, name
        self.network = f"{name}_default"
        self.services = {
            "web": Service("web", "http", 80, free_port()),
            "cache": Service("cache", "redis", 6379, free_port()),
            "db": Service("db", "postgres", 5432, free_port()),
            "api": Service("api", "http", 8080),
        }
        self._others = []
        self._prober = None
        labels = [f"com.docker.compose.project={name}", "com.docker.compose.network=default"]
        flags = [part for label in labels for part in ("--label", label)]
        engine.docker("network", "create", "--ipv6", *flags, self.network)
        self.up()

    # MARK: Containers

    def up(self):
        self.engine.base_image()
        self.run("web", 1, nginx_command("web-1"))
        self.run("cache", 1, redis_command("cache-1"))
        self.run("db", 1, postgres_command("db-1"))
        for number in (1, 2):
            self.run_api(number)
        for service in self.services.values():
            for container in service.containers:
                self.answers(service, container)
        return self

    def run_api(self, number):
        check = ["--health-cmd", "python3 -B /programs/load.py --once --host 127.0.0.1 --port 8080"]
        check += ["--health-interval", "1s", "--health-timeout", "5s", "--health-retries", "3"]
        self.run("api", number, [*WHO_SERVER, "--name", f"api-{number}", "--port", "8080"], *check)

    def run(self, service, number, command, *flags, restart="unless-stopped", labels=()):
        """A container of a service, with the labels and names that compose gives it."""
        known = self.services.setdefault(service, Service(service, "http", 8080))
        name = f"{self.name}-{service}-{number}"
        label = {
            "project": self.name,
            "service": service,
            "container-number": number,
            "oneoff": "False",
            "version": "2.20.0",
            "project.working_dir": f"/srv/{self.name}",
            "project.config_files": f"/srv/{self.name}/compose.yaml",
            "config-hash": "0" * 64,
        }
        arguments = ["run", "--detach", "--name", name, "--restart", restart, *QUICK, *MOUNT]
        arguments += [part for key, value in label.items() for part in ("--label", f"com.docker.compose.{key}={value}")]
        if not any(str(flag).startswith("--network") for flag in flags):
            arguments += ["--network", self.network, "--network-alias", service, "--network-alias", name]
        if known.published and number == 1:
            arguments += ["--publish", f"{known.published}:{known.port}"]
        self.engine.docker(*arguments, *flags, self.engine.base_image(), *command)
        known.containers.append(name)
        return name

    def beside(self, container, *command):
        """A container that shares a service's network, as `network_mode: service:…` makes it."""
        name = f"{self.name}-beside-{len(self._others)}"
        flags = ["--network", f"container:{container}", "--name", name, *QUICK, *MOUNT]
        self.engine.docker("run", "--detach", *flags, self.engine.base_image(), *(command or ["sleep", "100000"]))
        self._others.append(name)
        return name

    def started_at(self):
        """When each container of a service was started, and how often again."""
        found = {}
        for service in self.services.values():
            for container in service.containers:
                state = self.engine.inspect(container)
                found[container] = (state["State"]["StartedAt"], state["RestartCount"])
        return found

    def health(self, container):
        return self.engine.inspect(container)["State"]["Health"]["Status"]

    def rulesets(self):
        return {
            container: self.engine.ruleset(container)
            for service in self.services.values()
            for container in service.containers
        }

    def answers(self, service, container=None, who=None, aim=6):
        """Waits until a container answers for itself, from its own localhost."""
        container = container or service.container
        expected = who or container.removeprefix(f"{self.name}-")
        said = []

        def check():
            ran = self.engine.run(
                "exec", container, "python3", "-B", "/programs/load.py", "--once", "--timeout", "5", "--kind", service.kind,
                "--host", "127.0.0.1", "--port", service.port, check=False,
            )
            said[:] = [ran]
            return ran.code == 0 and ran.out.split()[:1] == [expected]

        try:
            eventually(f"{service.name} listens in its container", check, aim, pause=0.1)
        except NotSeen as error:
            raise NotSeen(f"{error}\n{said}\n{self.engine.run('logs', '--tail', 20, container, check=False)}") from None

    # MARK: What tests leave

    def ready(self):
        """Waits until each container runs and answers for itself."""
        for service in self.services.values():
            for container in service.containers:
                self.answers(service, container)

    def sidecars(self):
        return self.engine.containers(f"name=^kl-{self.name}-")

    def is_clean(self, rulesets, aim=2):
        """Waits until no sidecar is left, and the rules in each network are what they were before."""
        said = []

        def check():
            now = self.rulesets()
            said[:] = [self.sidecars(), *(f"{name}:\n{now[name]}" for name in now if _masked(now[name]) != _masked(rulesets[name]))]
            return said == [[]]

        try:
            eventually("no sidecar and no rule is left", check, aim, pause=0.1)
        except NotSeen as error:
            raise NotSeen(f"{error}\nsidecars: {said[0]}\nrules that were not there before, in " + "\n".join(said[1:])) from None

    def remove_others(self):
        if others := [other for other in self._others if other != self._prober]:
            self.engine.run("rm", "--force", *others, check=False)
        self._others = [self._prober] if self._prober else []

    def remove_sidecars(self):
        if sidecars := self.sidecars():
            self.engine.run("rm", "--force", *sidecars, check=False)

    def logs(self):
        """What the sidecars that are left have said, and the engine."""
        try:
            parts = [f"--- {name}\n{self.engine.run('logs', '--tail', 40, name, check=False)}" for name in self.sidecars()]
            parts.insert(0, self.engine.docker("ps", "--all"))
        except (NotSeen, subprocess.TimeoutExpired) as error:
            parts = [str(error)]
        return "\n".join([*parts, self.engine.log(10)])

    # MARK: Clients

    def client(self, service, place, host=None, **options):
        """Load upon a service. Places: "network", another container; "host", the published port; or a container's name,
        for one that shares its network."""
        service = self.services[service]
        port = service.port
        if place == "host":
            host, port = host or "127.0.0.1", service.published
            prefix = [*self.engine.machine.prefix, "python3", "-B", str(PROGRAMS / "load.py")]
        else:
            network = self.network if place == "network" else f"container:{place}"
            host = host or service.name
            flags = ["--rm", "--interactive", "--network", network, "--label", "kl-e2e-client=1", *MOUNT]
            docker = [self.engine.client, "run", *flags, self.engine.base_image()]
            prefix = [*docker, "python3", "-B", "/programs/load.py"]
        command = [*prefix, "--kind", service.kind, "--host", host, "--port", str(port)]
        return Client(f"{service.name} from {place} at {host}", command, self.engine.environment, **options)

    def who(self, service, container=None, family=4, headers=(), timeout=5, whole=False):
        """Who answers a new connection from another container, by its address; None where nobody does. Quick.
        The whole answer has also whom the server saw."""
        service = self.services[service]
        if not self._prober:
            self._prober = f"{self.name}-prober"
            flags = ["--detach", "--name", self._prober, "--network", self.network, *QUICK, "--restart", "always"]
            self.engine.docker("run", *flags, self.engine.base_image(), "sleep", "100000")
            self._others.append(self._prober)
        address = self.engine.address(container or service.container, family)
        command = [sys.executable, "-B", "-S", PROGRAMS / "load.py", "--once", "--kind", service.kind]
        command += ["--host", address, "--port", service.port, "--timeout", timeout]
        command += [part for header in headers for part in ("--header", header)]
        said = self.engine.run_in(self._prober, *command, check=False)
        return (said.strip() if whole else said.split()[0]) if said else None

    def from_node(self, service, address, headers=()):
        """Who answers a new connection of the machine itself, whose address is the bridge's."""
        service = self.services[service]
        command = [sys.executable, "-B", "-S", PROGRAMS / "load.py", "--once", "--kind", service.kind]
        command += ["--host", address, "--port", service.port]
        return self.engine.machine.run(*command, *(part for header in headers for part in ("--header", header))).strip()

    def comes_to(self, service, who, aim, container=None):
        """Waits until this side answers new connections."""
        eventually(
            f"{who.partition('-')[0]} answers for {service}", lambda: self.who(service, container) == who, aim, pause=0.05
        )

    def ask(self, service, place, host=None, **options):
        """Who answers one question, asked like that."""
        with self.client(service, place, host, once=True, **options) as client:
            return client.only_answer()

    def close(self):
        """Removes the containers and the network; a sidecar's too, should one be left."""
        filters = [f"network={self.network}"]
        names = {*self.engine.containers(*filters), *self._others, *self.engine.containers(f"name=kl-{self.name}-")}
        names |= {container for service in self.services.values() for container in service.containers}
        if names:
            self.engine.run("rm", "--force", "--volumes", *names, check=False)
        self.engine.run("network", "rm", self.network, check=False)


class Client:
    """A running load.py, whose lines are kept."""

    def __init__(self, name, command, environment, *, once=False, keep=False, hold=False, headers=(), pause=None):
        self.name = name
        command = [*command]
        command += [flag for flag, wanted in (("--once", once), ("--keep", keep), ("--hold", hold)) if wanted]
        command += [part for header in headers for part in ("--header", header)]
        command += ["--pause", str(pause)] if pause else []
        self.lines, self._changed = [], threading.Condition()
        self.errors = []
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        self._readers = [
            threading.Thread(target=self._read, args=arguments, daemon=True)
            for arguments in ((self._child.stdout, self.lines), (self._child.stderr, self.errors))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream, into):
        for line in stream:
            with self._changed:
                into.append(line.strip())
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def only_answer(self, deadline=60):
        code = self._child.wait(deadline)
        for reader in self._readers:
            reader.join(deadline)
        if code or not self.lines:
            raise NotSeen(f"{self.name}: nobody answered.\n" + "\n".join(self.errors[-5:]))
        return self.lines[0]

    @property
    def answers(self):
        """All so far, in the order in which they ended."""
        return [json.loads(line) for line in list(self.lines)]

    def under_way(self, count=5):
        """Waits until some more answers have come, so that it's known to be running."""
        wanted = len(self.lines) + count
        eventually(f"load runs: {self.name.split(' at ')[0]}", lambda: len(self.lines) >= wanted or self._over(), 6)
        if len(self.lines) < wanted:
            raise NotSeen(f"{self.name} ended early.\n" + "\n".join(self.errors[-5:] + self.lines[-3:]))
        return self

    def last(self):
        return self.answers[-1]

    def ended(self, aim):
        """Waits until it ends by itself, for a connection that is held until somebody ends it; its last line."""
        eventually(f"ended: {self.name.split(' at ')[0]}", self._over, aim)
        for reader in self._readers:
            reader.join(10)
        return self.last()

    def _over(self):
        return self._child.poll() is not None

    def stop(self):
        """Ends the load, and returns all answers."""
        self._end()
        return self.answers

    def _end(self):
        with contextlib.suppress(OSError):
            self._child.stdin.close()
        try:
            self._child.wait(30)
        except subprocess.TimeoutExpired:
            self._child.kill()
            raise NotSeen(f"{self.name}: neither answered nor timed out") from None
        for reader in self._readers:
            reader.join(10)

    def close(self):
        with contextlib.suppress(NotSeen):
            self._end()
        self._child.stdout.close()
        self._child.stderr.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _masked(ruleset):
    """Without the numbers of ports: the engine draws new ones for its name server at each start of a container."""
    return re.sub(r":\d+|(?<=sport )\d+", ":*", ruleset)


class Server(Process):
    """A developer's own server, on the localhost of the engine's machine, or of this one."""

    def __init__(self, engine, name, folder, port=None, host="127.0.0.1", here=False):
        self.port = port or free_port()
        command = [*([] if here else engine.machine.prefix), *WHO_SERVER[:2], str(PROGRAMS / "who_server.py")]
        command += ["--name", name, "--port", self.port, "--host", host]
        super().__init__(name, command, pathlib.Path(folder) / f"{name}-{self.port}.log")
        self.first_line(30)

    def freeze(self):
        """As a debugger stops it: it accepts, and answers nothing."""
        self.end_group(signal.SIGSTOP)

    def thaw(self):
        self.end_group(signal.SIGCONT)

    def kill(self):
        self.end_group(signal.SIGKILL)
        self.wait(10)


def check_sides(answers, switches, first, allowed_errors=0):
    """Judges answers: before the first switch `first` answers, and after each the side it names. While a switch is under way
    either may. `switches` are (when it was typed, when it was done, who answers then), in order."""
    errors = [answer for answer in answers if answer["error"]]
    assert len(errors) <= allowed_errors, f"{len(errors)} of {len(answers)} failed: {errors[:3]}; switches {switches}"
    counts = {}
    for answer in answers:
        if answer["error"]:
            continue
        sides = _sides(answer["start"], answer["end"], switches, first)
        who = answer["who"].split()[0]
        assert who in sides, f"{who} answered, not {sides}: {answer}; switches {switches}"
        counts[who] = counts.get(who, 0) + 1
    return counts


def _sides(start, end, switches, first):
    """Who may answer: a side can from when its switch is typed until the next one is done."""
    sides = [first, *(side for _, _, side in switches)]
    begins = [float("-inf"), *(typed for typed, _, _ in switches)]
    ends = [*(done for _, done, _ in switches), float("inf")]
    allowed = set()
    for side, begin, finish in zip(sides, begins, ends):
        if start <= finish and end >= begin:
            allowed |= {side} if isinstance(side, str) else set(side)
    return allowed


def now():
    return time.monotonic()
