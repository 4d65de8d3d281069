"""`kl` without arguments in a real terminal: it asks, and does what was answered."""

import pytest
from harness.cli import Developer
from harness.load import ask
from harness.terminal import DOWN, ENTER, ESCAPE, TAB, Terminal, control
from harness.web import WebServer

SERVICE = "Select service to intercept:"
PORTS = "Select ports (TAB to toggle):"
CANCELLED = "kl: nothing was selected, so nothing was done."
INTERRUPTED = "kl: interrupted: nothing was done."


@pytest.fixture
def typing(closing):
    """Opens a terminal in which a developer has typed a command."""

    def open_one(developer, *arguments, **options):
        return closing(
            Terminal(
                [developer.binaries / "kl", *arguments],
                columns=100,
                environment=developer.environment,
                directory=developer.directory,
                **options,
            )
        )

    return open_one


@pytest.fixture
def two_ports(make_project, make_developer):
    """Two services are up, one of them with two ports; a developer is connected."""
    project = make_project(("api-server", "billing"))
    project.other = project.add_port()
    ada = make_developer("ada", project.folder)
    ada.ok("env", "connect", "demo")
    return project, ada


def test_connect_start_and_stop_by_picking(make_project, make_developer, typing, closing):
    project = make_project(("api-server", "billing"))
    ada = make_developer("ada", project.folder)
    mine = closing(WebServer("workspace"))

    terminal = typing(ada, "env", "connect")
    terminal.wait_for("demo (local, down)", 2)
    terminal.send(ENTER)
    terminal.wait_for("Connected to environment demo (local).", 5)
    assert terminal.wait_end() == 0
    project.answers("api-server", aim=2)

    terminal = typing(ada, "intercept", "start")
    terminal.wait_for(SERVICE)
    terminal.wait_for(f"billing (running) - ports: {project.port('billing')}", 2)
    terminal.send("apis")
    terminal.wait_for("1/2")
    terminal.send(ENTER)
    port = project.port()
    terminal.wait_for(f"Service 'api-server' has 1 port: {port} (auto-selected)")
    terminal.wait_for(f"Service port {port} → Workspace port [{port}]:")
    # On one machine the default is where clients reach the service itself.
    terminal.send(ENTER)
    terminal.wait_for("connections would go in a circle")
    terminal.send("70000", ENTER)
    terminal.wait_for("'70000' isn't a port number. Enter one between 1 and 65535.")
    terminal.send(f"{mine.address[1]}", ENTER)
    terminal.wait_for("Traffic to api-server now reaches your workspace.", 2)
    assert terminal.wait_end() == 0
    assert ask(project.address()) == "workspace"

    terminal = typing(ada, "intercept", "stop")
    terminal.wait_for(f"api-server (Active) - {port} → {mine.address[1]}")
    terminal.send(ENTER)
    terminal.wait_for("api-server answers from the environment again.", 2)
    assert terminal.wait_end() == 0
    assert ask(project.address()) == "api-server"


def test_several_ports(two_ports, typing, closing):
    project, ada = two_ports
    one, two = closing(WebServer("one")), closing(WebServer("two"))
    terminal = typing(ada, "intercept", "start", "api-server")
    terminal.wait_for(PORTS)
    terminal.send(TAB, DOWN, TAB, ENTER)
    for port, server in ((project.port(), one), (project.other, two)):
        terminal.wait_for(f"Service port {port} → Workspace port [{port}]:")
        terminal.send(str(server.address[1]), ENTER)
    terminal.wait_for("Traffic to api-server now reaches your workspace.", 2)
    assert terminal.wait_end() == 0
    assert ask(project.address()) == "one"
    assert ask(("127.0.0.1", project.other)) == "two"


@pytest.mark.parametrize("key, said, code", [(control("c"), INTERRUPTED, 130), (ESCAPE, CANCELLED, 1)])
def test_leaving_at_each_step(two_ports, typing, key, said, code):
    project, ada = two_ports
    steps = [(SERVICE, ENTER), (PORTS, ENTER), ("Workspace port [", "")]
    for count in range(1, len(steps) + 1):
        terminal = typing(ada, "intercept", "start")
        for number, (shown, answer) in enumerate(steps[:count], 1):
            terminal.wait_for(shown, 2)
            terminal.send(answer if number < count else key)
        terminal.wait_for(said, 2)
        assert terminal.wait_end() == code
        assert terminal.is_as_before
    assert ada.intercepts() == []
    assert ask(project.address()) == "api-server"


def test_a_service_of_someone_else_cannot_be_picked(demo, make_developer, typing, closing):
    project, ada = demo
    grace = make_developer("grace", project.folder)
    grace.ok("env", "connect", "demo")
    mine = closing(WebServer("grace"))
    grace.ok("intercept", "start", "api-server", "-p", f"{project.port()}:{mine.address[1]}")
    terminal = typing(ada, "intercept", "start")
    terminal.wait_for("intercepted by ", 2)
    terminal.send(ENTER)
    terminal.send(ESCAPE)
    terminal.wait_for(CANCELLED, 2)
    assert terminal.wait_end() == 1
    assert ask(project.address()) == "grace"


def test_json_never_asks(two_ports, typing):
    """A program reads it, if from a terminal."""
    _, ada = two_ports
    terminal = typing(ada, "intercept", "start", "-o", "json")
    terminal.wait_for("no service is named", 2)
    assert terminal.wait_end() == 2


def test_a_dumb_terminal_is_not_asked(two_ports, typing):
    _, ada = two_ports
    dumb = Developer(ada.binaries, ada.home, ada.directory, TERM="dumb")
    terminal = typing(dumb, "intercept", "stop")
    terminal.wait_for("no service is named", 2)
    assert terminal.wait_end() == 2
