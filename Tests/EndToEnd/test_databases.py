"""Redis and PostgreSQL behind the tunnel, with their own benchmarks, and the sums checked afterwards."""

import re

import pytest
from harness.programs import postgres, redis, run
from harness.servers import Server


@pytest.fixture
def silent_original(closing):
    return closing(Server(lambda connection: None))


@pytest.mark.parametrize("pipelined", [1, 16])
def test_redis_benchmark(processes, folder, make_pair, silent_original, pipelined):
    local = redis(processes, folder / "redis")
    host, port = make_pair(original=silent_original.address, local=local).start().public
    at = ["-h", host, "-p", port]
    count = 20_000 * pipelined
    output = run("redis-benchmark", *at, "-n", count, "-c", 50, "-P", pipelined, "-t", "set,get,incr,lpush", "--csv")
    assert len(re.findall(r'^"(?:SET|GET|INCR|LPUSH)"', output, re.MULTILINE)) == 4, output
    # Each command arrived once: neither lost nor run twice.
    assert int(run("redis-cli", *at, "get", "counter:__rand_int__")) == count
    assert int(run("redis-cli", *at, "llen", "mylist")) == count
    assert silent_original.accepted == 0


def test_pgbench(processes, folder, make_pair, silent_original):
    local = postgres(processes, folder / "postgres")
    host, port = make_pair(original=silent_original.address, local=local).start().public
    at = ["-h", host, "-p", port, "-U", "tester"]
    run("pgbench", *at, "-q", "-i", "-s", "2", "postgres")
    output = run("pgbench", *at, "-n", "-c", 8, "-j", 2, "-t", 250, "postgres")
    assert "number of transactions actually processed: 2000/2000" in output, output
    assert "number of failed transactions: 0 (0.000%)" in output, output
    # What the benchmark keeps in balance: each transaction adds the same delta in two tables.
    sums = "select count(*), sum(delta) = (select sum(abalance) from pgbench_accounts) from pgbench_history"
    assert run("psql", *at, "-X", "-A", "-t", "-c", sums, "postgres").strip() == "2000|t"
    assert silent_original.accepted == 0
