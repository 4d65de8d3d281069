"""Two developers and one service; and what an environment says of services that can't be intercepted."""

import pytest

from harness.docker_project import WHO_SERVER


def test_the_second_is_told_by_whom_and_since_when(shop, join_shop, serve):
    ada, bob = join_shop("ada"), join_shop("bob")
    ada.ok("intercept", "start", "web", "-p", f"80:{serve('ada').port}")
    refused = bob.run("intercept", "start", "web", "-p", f"80:{serve('bob').port}")
    holder = ada.intercepts()[0]["workspace"]
    assert refused.code == 5 and f"intercepted by {holder} since" in refused.error, refused
    assert shop.who("web") == "ada"
    assert [intercept["service"] for intercept in bob.intercepts()] == ["web"]
    ada.ok("intercept", "stop", "web")
    assert shop.who("web") == "web-1"


def test_taking_over(shop, join_shop, serve):
    ada, bob = join_shop("ada"), join_shop("bob")
    ada.ok("intercept", "start", "api", "-p", f"8080:{serve('ada').port}")
    bob.ok("intercept", "start", "api", "-p", f"8080:{serve('bob').port}", "--force")
    for container in shop.services["api"].containers:
        shop.comes_to("api", "bob", 2, container)
    assert bob.phase("api") == "Active"
    # What she ends is what is left of hers; she can't end what is his.
    assert ada.run("intercept", "stop", "api").code in (0, 4, 5)
    assert shop.who("api") == "bob"
    bob.ok("intercept", "stop", "api")
    for container in shop.services["api"].containers:
        shop.comes_to("api", container.removeprefix("shop-"), 1, container)


def test_who_has_taken_over_answers_at_once_and_alone(shop, join_shop, serve):
    both = [(name, join_shop(name), serve(name).port) for name in ("ada", "bob")]
    for name, developer, port in both * 4:
        developer.ok("intercept", "start", "web", "-p", f"80:{port}", "--force")
        assert {shop.who("web") for _ in range(8)} == {name}
        assert len(shop.sidecars()) == 1
    both[1][1].ok("intercept", "stop", "web")
    assert shop.who("web") == "web-1"


def test_of_two_at_once_one_wins(shop, join_shop, serve):
    both = {name: join_shop(name) for name in ("ada", "bob")}
    ports = {name: serve(name).port for name in both}
    for _ in range(3):
        children = {
            name: developer.begin("intercept", "start", "api", "-p", f"8080:{ports[name]}")
            for name, developer in both.items()
        }
        said = {name: child.communicate(timeout=60) for name, child in children.items()}
        codes = {name: child.returncode for name, child in children.items()}
        assert sorted(codes.values()) == [0, 5], said
        winner = next(name for name, code in codes.items() if code == 0)
        for container in shop.services["api"].containers:
            shop.comes_to("api", winner, 1, container)
        for developer in both.values():
            assert developer.phase("api") == "Active"
        both[winner].ok("intercept", "stop", "api")


@pytest.fixture
def odd(engine, shop):
    """Services of kinds that can't be intercepted, removed again."""
    made = []

    def run(name, *flags, command=(*WHO_SERVER, "--name", "odd", "--port", "9999"), **options):
        made.append((name, shop.run(name, 1, command, *flags, **options)))
        return made[-1][1]

    yield run
    for name, container in made:
        shop.services.pop(name, None)
        engine.docker("rm", "--force", container)


@pytest.mark.parametrize("why", ["shares", "host", "exited", "unhealthy", "restarting"])
def test_what_cannot_be_intercepted_gets_a_sentence(engine, shop, ada, odd, serve, why):
    if why == "shares":
        odd(why, "--network=container:shop-web-1")
    elif why == "host":
        odd(why, "--network=host")
    elif why == "exited":
        engine.docker("wait", odd(why, command=["true"], restart="no"))
    elif why == "restarting":
        odd(why, command=["false"])
    else:
        odd(why, "--health-cmd", "false", "--health-interval", "1s", "--health-retries", "1")
    ran = ada.run("intercept", "start", why, "-p", f"8080:{serve().port}")
    if why == "unhealthy" and ran.code == 0:
        # It runs and can be intercepted; it is told all the same.
        assert "unhealthy" in ran.out + ran.error, ran
        ada.ok("intercept", "stop", why)
        return
    assert ran.code == 1 and ran.error.startswith("kl: ") and why in ran.error, ran
    assert not shop.sidecars()
