"""Measures keyferry beside nginx and HAProxy; run by tools/bench, which builds and installs.

Each server lives in a network namespace of its own, joined to the clients' by veth, and is started anew for each trial,
pinned to core 0; the client has core 1. Packets are received on the core of whom they are for (RPS), so that a server's
receive work is its own. What a trial costs the server is the time core 0 was busy (/proc/stat: with softirq) without
the time the server was ready to run and somebody else had the core. keyferry polls: of its core's time, idle turns are left
out, each as long as one takes while there is no load, so that what the kernel did in between counts.

As a reverse proxy keyferry sleeps while it has nothing to do, so nothing is left out: a trial costs either proxy what its
process used (/proc/PID/stat, all threads), and beside that the time core 0 was busy. The origin is an nginx that shares
core 1 with the client and goes before it.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import plots

REPOSITORY = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
RELEASE = REPOSITORY / os.environ.get("CARGO_TARGET_DIR", "target") / "release"
KEYFERRY = RELEASE / "keyferry"
LOAD = RELEASE / "keyferry-load"
DOCUMENT = REPOSITORY / "docs/BENCHMARKS.md"
HOST = "bench.test"
SERVER_CORE, CLIENT_CORE = 0, 1
PEERS = ["keyferry", "nginx", "haproxy"]
# The node with vhost in place of veth, and a client that has a port of its own on the other side.
VHOST = "keyferry_vhost"
VHOST_NETWORK = "10.79.9"
FILES = {"1k": 1 << 10, "64k": 1 << 16, "1g": 1 << 30}
# Open files of a process, at most: the client of the idle case needs one a connection.
OPEN_FILES = 20_000
# Seconds a server may take to start, or to end.
START_MAX = 20
# Pages of 2 MiB for packet memory of keyferry and of a client with a port of its own.
HUGE_PAGES = 300
# The node at rest: seconds until it is, and requests a second of its light load.
SETTLE, LIGHT_RATE = 2.0, 200
IDLE_MODES = ["sleep", "yield"]
# The clients' addresses in the idle case: .10 and those after it.
CLIENT_ADDRESSES = 4
# A trial in which others had more of the server's core than this is done again, so often at most.
OTHERS_MAX, TRIALS_MAX = 0.05, 3


class Failed(Exception):
    """What ends the run, in a sentence that says what to do."""


def run(*command, **options):
    """Runs a command of the set-up."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise Failed(f"{' '.join(map(str, command))}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


class Case:
    """One kind of load: the client's options, and what is counted."""

    def __init__(self, name, title, file, options, unit, peers=(*PEERS, VHOST), proxy=False, idle="yield"):
        self.name, self.title, self.file, self.options = name, title, file, options
        self.unit, self.peers, self.proxy, self.idle = unit, peers, proxy, idle

    def polls(self, peer):
        """Whether the server is always busy, and says itself which of its turns were not."""
        return peer.startswith("keyferry") and self.idle != "sleep"


CASES = [
    Case("keep_alive_1k", "keep-alive, 1 KiB", "1k", ["-c", "64"], "requests"),
    Case("keep_alive_64k", "keep-alive, 64 KiB", "64k", ["-c", "64"], "requests"),
    Case(
        "handshake_full",
        "connection per request, full handshake",
        "1k",
        ["-c", "64", "--requests-per-connection", "1", "--no-resumption"],
        "requests",
    ),
    Case(
        "handshake_resumed",
        "connection per request, resumed",
        "1k",
        ["-c", "64", "--requests-per-connection", "1", "--resume", "1"],
        "requests",
    ),
    # HAProxy replies from a buffer, which 1 GiB is not.
    Case("download_1g", "one client downloads 1 GiB", "1g", ["-c", "1", "-n", "1"], "bytes", ("keyferry", "nginx", VHOST)),
    Case("proxy_1k", "reverse proxy, keep-alive, 1 KiB", "1k", ["-c", "64"], "requests", ("keyferry", "nginx", VHOST),
         proxy=True, idle="sleep"),
]


class Machine:
    """Namespaces, links, files and certificates of a run; everything made is removed by `close`."""

    def __init__(self):
        self.prefix = f"kf-bench-{os.getpid()}"
        self.folder = Path(tempfile.mkdtemp(prefix=f"{self.prefix}.", dir="/dev/shm"))
        self.pages_before = None
        self.hugepages = "never"
        self.servers, self.clients_running = [], []

    def open(self):
        self.make_files()
        self.reserve_hugepages()
        run("ip", "netns", "add", self.clients)
        run("ip", "-n", self.clients, "link", "set", "lo", "up")
        run("ip", "netns", "add", self.origin)
        for peer in PEERS:
            self.make_link(peer)
            self.make_link_to_origin(peer)

    @property
    def clients(self):
        return f"{self.prefix}-c"

    @property
    def origin(self):
        return f"{self.prefix}-o"

    def namespace(self, peer):
        return f"{self.prefix}-{'keyferry' if peer == VHOST else peer}"

    @property
    def vhost(self):
        return self.folder / "vhost.sock"

    @staticmethod
    def address(peer, host=2):
        if peer == VHOST:
            return f"{VHOST_NETWORK}.{host}"
        return f"10.79.{PEERS.index(peer) + 1}.{host}"

    @staticmethod
    def origin_address(peer, host=1):
        """The origin's, or with 2 the server's, on the network between the two."""
        return f"10.80.{PEERS.index('keyferry' if peer == VHOST else peer) + 1}.{host}"

    def make_link_to_origin(self, peer):
        server, near, far = self.namespace(peer), "origin0", f"to-{peer}"
        run("ip", "-n", server, "link", "add", near, "type", "veth", "peer", "name", far, "netns", self.origin)
        run("ip", "-n", server, "address", "add", f"{self.origin_address(peer, 2)}/24", "dev", near)
        run("ip", "-n", self.origin, "address", "add", f"{self.origin_address(peer)}/24", "dev", far)
        self.raise_link(server, near, SERVER_CORE)
        self.raise_link(self.origin, far, CLIENT_CORE)

    @staticmethod
    def raise_link(namespace, interface, core):
        """Up, with what it receives on that core."""
        file = f"/sys/class/net/{interface}/queues/rx-0/rps_cpus"
        run("ip", "netns", "exec", namespace, "sh", "-c", f"echo {1 << core:x} >{file}")
        run("ip", "-n", namespace, "link", "set", interface, "up")

    def make_link(self, peer):
        server, near, far = self.namespace(peer), "bench0", f"to-{peer}"
        run("ip", "netns", "add", server)
        run("ip", "-n", server, "link", "add", near, "type", "veth", "peer", "name", far, "netns", self.clients)
        run("ip", "-n", self.clients, "address", "add", f"{self.address(peer, 1)}/24", "dev", far)
        for host in range(10, 10 + CLIENT_ADDRESSES):
            run("ip", "-n", self.clients, "address", "add", f"{self.address(peer, host)}/24", "dev", far)
        if peer == "keyferry":
            run("ip", "netns", "exec", server, "sysctl", "-qw", f"net.ipv6.conf.{near}.disable_ipv6=1")
            # An af_packet port takes packets as they are on a wire: checksums made, none larger than the MTU. The
            # kernel's servers keep every offload of veth.
            offloads = ["tx", "off", "gso", "off", "tso", "off"]
            run("ip", "netns", "exec", self.clients, "ethtool", "-K", far, *offloads)
        else:
            run("ip", "-n", server, "address", "add", f"{self.address(peer)}/24", "dev", near)
        self.raise_link(server, near, SERVER_CORE)
        self.raise_link(self.clients, far, CLIENT_CORE)
        # 10,000 connections in a few seconds, and a connection per request from one address.
        run("ip", "netns", "exec", server, "sysctl", "-qw", "net.ipv4.tcp_max_syn_backlog=16384", "net.core.somaxconn=16384")
        run("ip", "netns", "exec", self.clients, "sysctl", "-qw", "net.ipv4.ip_local_port_range=10000 65000",
            "net.ipv4.tcp_tw_reuse=1")

    def make_files(self):
        root = self.folder / "root"
        root.mkdir()
        for name, size in FILES.items():
            with open(root / name, "wb") as file:
                if size <= 1 << 20:
                    file.write(os.urandom(size))
                else:
                    file.truncate(size)
        certificate, key = self.folder / "cert.pem", self.folder / "key.pem"
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
            "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}", "-keyout", key, "-out", certificate)
        (self.folder / "both.pem").write_text(certificate.read_text() + key.read_text())

    def reserve_hugepages(self):
        file = Path("/proc/sys/vm/nr_hugepages")
        try:
            before = int(file.read_text())
            file.write_text(str(before + HUGE_PAGES))
            self.pages_before = before
        except OSError:
            return
        if int(meminfo("HugePages_Free")) >= HUGE_PAGES:
            self.hugepages = "require"

    def configure(self, peer, case):
        nginx = "nginx_proxy.conf" if case.proxy else "nginx.conf"
        name = {"nginx": nginx, "haproxy": "haproxy.cfg", "origin": "nginx_origin.conf"}.get(peer, "keyferry.toml")
        text = (HERE / name).read_text()
        file = case.file if case.file in ("1k", "64k") else "1k"
        values = {
            "ADDRESS": "0.0.0.0" if peer == "origin" else self.address(peer),
            "ORIGIN": "" if peer == "origin" else f"{self.origin_address(peer)}:8080",
            "APPS": f"[{SERVER_CORE}]" if case.proxy else "[]",
            "IDLE": case.idle,
            "ANSWERS": "upstream" if case.proxy else "static",
            "DEVICE": f"net_vhost0,iface={self.vhost}" if peer == VHOST else "net_af_packet0,iface=bench0,framecnt=4096",
            "HOST": HOST,
            "FOLDER": self.folder,
            "ROOT": self.folder / "root",
            "FILE": file,
            "BUFFER": 16384 if file == "1k" else 80000,
            "HUGEPAGES": self.hugepages,
        }
        for key, value in values.items():
            text = text.replace(f"@{key}@", str(value))
        path = self.folder / name
        path.write_text(text)
        return path

    def close(self):
        for client in list(self.clients_running):
            client.stop()
        for server in list(self.servers):
            server.stop()
        for name in [*map(self.namespace, PEERS), self.clients, self.origin]:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        if self.pages_before is not None:
            Path("/proc/sys/vm/nr_hugepages").write_text(str(self.pages_before))
        shutil.rmtree(self.folder, ignore_errors=True)


class Origin:
    """What stands behind a proxy, on the client's core and before it."""

    def __init__(self, machine, case):
        self.machine = machine
        config = machine.configure("origin", case)
        inside = ["ip", "netns", "exec", machine.origin, "taskset", "-c", str(CLIENT_CORE), "nice", "-n", "-10"]
        log = machine.folder / "origin.log"
        self.process = subprocess.Popen([*inside, "nginx", "-c", config, "-e", log], stdin=subprocess.DEVNULL)
        machine.servers.append(self)

    def stop(self):
        self.machine.servers.remove(self)
        self.process.terminate()
        self.process.wait()


class Server:
    """One of the servers, running on core 0."""

    def __init__(self, machine, peer, case):
        self.machine, self.peer, self.case = machine, peer, case
        self.config = machine.configure(peer, case)
        command = {
            "nginx": ["nginx", "-c", self.config, "-e", machine.folder / "nginx.log"],
            "haproxy": ["haproxy", "-db", "-f", self.config],
        }.get(peer, [KEYFERRY, "node", "--config", self.config])
        inside = ["ip", "netns", "exec", machine.namespace(peer), "taskset", "-c", str(SERVER_CORE)]
        self.log = machine.folder / f"{peer}.out"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen([*inside, *command], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        machine.servers.append(self)
        self.wait_ready()

    def wait_ready(self):
        deadline = time.monotonic() + START_MAX
        probe = ["ip", "netns", "exec", self.machine.clients, "openssl", "s_client", "-connect",
                 f"{self.machine.address(self.peer)}:443", "-servername", HOST]
        while not (
            "keyferry: node bench ready" in self.log.read_text()
            if self.peer == VHOST
            else subprocess.run(probe, capture_output=True, stdin=subprocess.DEVNULL).returncode == 0
        ):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"{self.peer} does not start:\n{self.log.read_text()}")
            time.sleep(0.1)

    def stop(self):
        self.machine.servers.remove(self)
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(START_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def counters(self):
        """keyferry's own counters, all workers together."""
        out = run(KEYFERRY, "status", "--config", self.config)
        return json.loads(out)["total"]

    def wait_asked(self):
        """Until a client has had a reply: one with a port of its own takes a while to open it."""
        deadline = time.monotonic() + START_MAX
        while self.counters()["requests"] == 0:
            if time.monotonic() > deadline:
                raise Failed(f"no request has reached {self.peer}:\n{self.log.read_text()}")
            time.sleep(0.01)

    def waited(self):
        """Seconds its busiest thread was ready to run and did not, of /proc/PID/schedstat (sched-stats)."""
        threads = []
        for file in Path(f"/proc/{self.process.pid}/task").glob("*/schedstat"):
            ran, waited, _slices = map(int, file.read_text().split())
            threads.append((ran, waited / 1e9))
        return max(threads)[1]

    def used(self):
        """Seconds of processors that its threads used, of /proc/PID/stat."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_bytes(self):
        """Resident memory, shared memory and hugepages of the server's process."""
        rss = shared = 0
        for line in Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines():
            key, _, value = line.partition(":")
            if key == "Rss":
                rss = int(value.split()[0]) << 10
            elif key in ("Shared_Hugetlb", "Private_Hugetlb"):
                shared += int(value.split()[0]) << 10
        return rss + shared


def version(peer):
    """What the server calls itself."""
    if peer == "keyferry":
        return run(KEYFERRY, "--version").strip()
    done = subprocess.run([peer, "-v"], capture_output=True, text=True)
    return (done.stdout + done.stderr).splitlines()[0].removeprefix("nginx version: ").split(" - ")[0].strip()


def meminfo(key):
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return line.split()[1]
    raise Failed(f"/proc/meminfo has no {key}")


def core_times(core):
    """Seconds that a core was busy, in softirqs and in interrupts since the start of the machine, of /proc/stat (proc(5))."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith(f"cpu{core} "):
            user, nice, system, _idle, _wait, irq, softirq, _steal = map(int, line.split()[1:9])
            tick = os.sysconf("SC_CLK_TCK")
            return (user + nice + system + irq + softirq) / tick, softirq / tick, irq / tick
    raise Failed(f"/proc/stat has no core {core}")


def softirq_thread(core):
    """Seconds that the core's thread for softirqs ran: work of the server that it may wait for."""
    for comm in Path("/proc").glob("[0-9]*/comm"):
        try:
            if comm.read_text().strip() == f"ksoftirqd/{core}":
                return int((comm.parent / "schedstat").read_text().split()[0]) / 1e9
        except OSError:
            continue  # ended meanwhile
    return 0.0  # hidden from this PID namespace


class Client:
    """The load generator, on core 1."""

    def __init__(self, machine, peer, options):
        url = f"https://{HOST}{options.pop(0)}"
        command = ["ip", "netns", "exec", machine.clients, "taskset", "-c", str(CLIENT_CORE), LOAD, url,
                   "--resolve", f"{HOST}:{machine.address(peer)}", "--insecure", "--json", "-",
                   "--tls", "1.3", "--suites", "TLS13_AES_128_GCM_SHA256", "--groups", "X25519", *options]
        if peer == VHOST:
            command += ["--nic", f"net_virtio_user0,path={machine.vhost}", "--nic-address",
                        f"{machine.address(peer, 1)}/24", "--nic-hugepages", "require"]
        self.machine = machine
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        machine.clients_running.append(self)

    def stop(self):
        self.machine.clients_running.remove(self)
        self.process.kill()
        self.process.wait()

    def finish(self):
        out, err = self.process.communicate()
        self.machine.clients_running.remove(self)
        if self.process.returncode != 0:
            raise Failed(f"the load generator ended with {self.process.returncode}: {err.strip()}{out[:500]}")
        report = json.loads(out)
        errors = sum(report["errors"].values())
        if errors or report["unsent"]:
            raise Failed(f"{errors} errors: {report.get('first_error')}")
        return report


def trial(machine, peer, case, seconds):
    """One measurement of one server: its figures by name."""
    origin = Origin(machine, case) if case.proxy else None
    server = Server(machine, peer, case)
    try:
        idle_turn = idle_turn_seconds(server)
        warm_up = 0 if "-n" in case.options else min(1.0, seconds / 3)
        options = [f"/{case.file}", *case.options]
        if "-n" not in case.options:
            options += ["-d", str(seconds + warm_up), "--warm-up", str(warm_up)]
        if not warm_up:
            # All of the load is in between, from the first packet on.
            before = sample(server)
        client = Client(machine, peer, options)
        if warm_up:
            if peer == VHOST:
                server.wait_asked()
            time.sleep(warm_up)
            before = sample(server)
            # Shorter than what the client measures, so that both ends of it are inside.
            time.sleep(seconds * 0.9)
            after = sample(server)
            report = client.finish()
        else:
            report = client.finish()
            after = sample(server)
        return figures(case, report, before, after, idle_turn)
    finally:
        server.stop()
        if origin:
            origin.stop()


def idle_turn_seconds(server):
    """What a turn of keyferry's worker takes when there is no load at all."""
    if not server.case.polls(server.peer):
        return 0.0
    before, began = server.counters()["turns"], time.monotonic()
    time.sleep(0.5)
    return (time.monotonic() - began) / max(1, server.counters()["turns"] - before)


def quiet_trial(machine, peer, case, seconds):
    """The first trial that others did not disturb, or the least disturbed."""
    found = []
    while len(found) < TRIALS_MAX and (not found or found[-1]["others_share"] > OTHERS_MAX):
        found.append(trial(machine, peer, case, seconds))
    return min(found, key=lambda result: result["others_share"])


def sample(server):
    busy, softirq, irq = core_times(SERVER_CORE)
    now = time.monotonic()
    counters = server.counters() if server.case.polls(server.peer) else None
    others = server.waited() - softirq_thread(SERVER_CORE)
    times = {"time": now, "busy": busy, "softirq": softirq, "irq": irq, "others": others, "used": server.used()}
    return {**times, "counters": counters}


def figures(case, report, before, after, idle_turn):
    wall = after["time"] - before["time"]
    spent = {key: after[key] - before[key] for key in ("busy", "softirq", "irq", "used", "others")}
    others = max(0.0, spent["others"])
    if case.proxy:
        # Its threads wait for each other as well: others' is what was neither theirs nor an interrupt's.
        others = max(0.0, spent["busy"] - spent["used"] - spent["softirq"] - spent["irq"])
    busy = spent["busy"] - others
    result = {"softirq_share": spent["softirq"] / wall, "others_share": others / wall}
    if before["counters"]:
        delta = {name: after["counters"][name] - before["counters"][name] for name in ("turns", "turns_idle")}
        # Whatever took the core from its idle turns made them longer than they are without any load.
        idle = delta["turns_idle"] * idle_turn
        busy = max(0.0, wall - others - idle)
        result["idle_share"] = idle / wall
    done = report["requests"] if case.unit == "requests" else report["bytes"]
    rate = done / report["seconds"]
    latency = report["latency_us"]
    if case.proxy:
        result["per_busy_second"] = rate / (busy / wall)
        busy = spent["used"]
    result.update(
        rate=rate,
        # With a number of requests the whole load lies between the samples; else they are inside of it.
        per_core_second=done / busy if "-n" in case.options else rate / (busy / wall),
        busy_share=busy / wall,
        p50_us=latency["p50"],
        p99_us=latency["p99"],
        resumed_share=report["handshakes"]["resumed_share"],
        client_share=report["generator"]["cpu_share"],
    )
    return result


def idle_memory(machine, peer, counts):
    """Bytes a connection that does nothing: the slope of the server's memory between two numbers of them."""
    case = CASES[0]
    server = Server(machine, peer, case)
    try:
        memory = []
        for count in counts:
            # Each connection asks once, and then thinks for longer than the trial lasts.
            sources = f"{machine.address(peer, 10)}-{machine.address(peer, 9 + CLIENT_ADDRESSES)}"
            options = ["/1k", "-c", str(count), "--source", sources, "--think", "1000", "-d", "14", "--timeout", "1000", "--drain", "0.001"]
            client = Client(machine, peer, options)
            time.sleep(10)
            memory.append(server.memory_bytes())
            report = client.finish()
            if report["requests"] < count:
                raise Failed(f"{peer}: {report['requests']} of {count} connections got a reply in time")
            time.sleep(1)
        return {"bytes": (memory[1] - memory[0]) / (counts[1] - counts[0]), "at": dict(zip(map(str, counts), memory))}
    finally:
        server.stop()


def at_rest(machine, idle, seconds):
    """A node that nobody asks: its share of a core. And then one that a few ask: how long they wait."""
    case = Case("at_rest", "", "1k", [], "requests", idle=idle)
    server = Server(machine, "keyferry", case)
    try:
        time.sleep(SETTLE)
        began, used = time.monotonic(), server.used()
        time.sleep(seconds)
        share = (server.used() - used) / (time.monotonic() - began)
        options = ["/1k", "-c", "16", "--rate", str(LIGHT_RATE), "--arrivals", "poisson", "-d", str(seconds + 1), "--warm-up", "1"]
        latency = Client(machine, "keyferry", options).finish()["latency_us"]
        return {"share": share, "p50_us": latency["p50"], "p99_us": latency["p99"]}
    finally:
        server.stop()


def measure(machine, arguments):
    """All figures: {case: {peer: [figures of each round]}}."""
    results = {}
    cases = [case for case in CASES if case.name in arguments.case]
    for number in range(arguments.rounds):
        for case in cases:
            # Each round begins with another server.
            turn = number % len(case.peers)
            for peer in case.peers[turn:] + case.peers[:turn]:
                result = quiet_trial(machine, peer, case, arguments.seconds)
                results.setdefault(case.name, {}).setdefault(peer, []).append(result)
                say(f"round {number + 1}  {case.name:18} {peer:9} " + describe(case, result))
        if "at_rest" in arguments.case:
            for idle in IDLE_MODES[number % 2:] + IDLE_MODES[:number % 2]:
                result = at_rest(machine, idle, arguments.seconds)
                results.setdefault("at_rest", {}).setdefault(idle, []).append(result)
                say(f"round {number + 1}  at rest            {idle:9} {result['share']:.2%} of a core;  {LIGHT_RATE} requests/s: "
                    f"p50 {result['p50_us']:.0f} us  p99 {result['p99_us']:.0f} us")
    if "idle_memory" in arguments.case:
        counts = [100, 1000] if arguments.quick else [1000, 10000]
        for peer in PEERS:
            result = idle_memory(machine, peer, counts)
            results.setdefault("idle_memory", {})[peer] = [result]
            say(f"idle memory         {peer:9} {result['bytes'] / 1024:.1f} KiB a connection")
    return results


def describe(case, result):
    scale, unit = (1, "requests") if case.unit == "requests" else (1e9, "GB")
    others = f"  others {result['others_share']:.0%}" if result["others_share"] > OTHERS_MAX else ""
    if "per_busy_second" in result:
        others = f"  {result['per_busy_second'] / scale:.4g} a second of the core{others}"
    return (
        f"{result['rate'] / scale:10.4g} {unit}/s  {result['per_core_second'] / scale:10.4g} a core-second"
        f"  busy {result['busy_share']:.2f} (softirq {result['softirq_share']:.2f})  p99 {result['p99_us']:.0f} us  client {result['client_share']:.2f}"
        f"{others}"
    )


def say(text):
    print(text, flush=True)


def medians(results, case, key="per_core_second"):
    """Median of each server, and half the distance between the quartiles as a share of it."""
    found = {}
    for peer, rounds in results.get(case, {}).items():
        values = [figures[key] for figures in rounds]
        middle = statistics.median(values)
        quartiles = statistics.quantiles(values, n=4) if len(values) > 1 else [middle] * 3
        found[peer] = (middle, (quartiles[2] - quartiles[0]) / 2 / middle if middle else 0.0)
    return found


def summary(results):
    """The last line."""

    def ratio(case, peer, key="per_core_second", ours="keyferry"):
        found = medians(results, case, key)
        if ours not in found or peer not in found:
            return "none"
        return f"{found[ours][0] / found[peer][0]:.3g}"

    def rest(key, idle="sleep"):
        found = medians(results, "at_rest", key)
        return f"{found[idle][0]:.3g}" if idle in found else "none"

    return (
        f"bench peers: rps_vs_haproxy_veth={ratio('keep_alive_1k', 'haproxy')}"
        f" rps_vs_nginx_veth={ratio('keep_alive_1k', 'nginx')}"
        f" rps_vs_nginx_vhost={ratio('keep_alive_1k', 'nginx', ours=VHOST)}"
        f" handshakes_vs_nginx={ratio('handshake_full', 'nginx')}"
        f" handshakes_vs_nginx_vhost={ratio('handshake_full', 'nginx', ours=VHOST)}"
        f" resumed_vs_nginx={ratio('handshake_resumed', 'nginx')}"
        f" idle_vs_nginx={ratio('idle_memory', 'nginx', 'bytes')}"
        f" proxy_vs_nginx={ratio('proxy_1k', 'nginx')}"
        f" proxy_vs_nginx_vhost={ratio('proxy_1k', 'nginx', ours=VHOST)}"
        f" proxy_core_vs_nginx={ratio('proxy_1k', 'nginx', 'per_busy_second')}"
        f" proxy_core_vs_nginx_vhost={ratio('proxy_1k', 'nginx', 'per_busy_second', VHOST)}"
        f" rest_share={rest('share')} rest_p50_us={rest('p50_us')} yield_p50_us={rest('p50_us', 'yield')}"
    )


def main():
    parser = argparse.ArgumentParser(prog="tools/bench", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each case")
    parser.add_argument("--seconds", type=float, default=5.0, help="measured seconds of a trial")
    parser.add_argument("--quick", action="store_true", help="one round of a second, 1,000 connections")
    names = [*(case.name for case in CASES), "idle_memory", "at_rest"]
    parser.add_argument("--case", action="append", choices=names, help="only this one; again for more")
    parser.add_argument("--json", type=Path, help="every figure of every round")
    parser.add_argument("--write", action="store_true", help="put the result into docs/BENCHMARKS.md")
    arguments = parser.parse_args()
    arguments.case = arguments.case or names
    if arguments.write:
        # Said before half an hour has gone into it.
        plots.check(DOCUMENT)
    if arguments.quick:
        arguments.rounds, arguments.seconds = 1, 1.0
    # The client's, which inherits it.
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(OPEN_FILES, hard), hard))
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda *_: sys.exit(130))
    machine = Machine()
    try:
        machine.open()
        say(f"hugepages: {machine.hugepages}")
        results = measure(machine, arguments)
        versions = {peer: version(peer) for peer in PEERS}
    except Failed as failed:
        sys.exit(f"tools/bench: {failed}")
    finally:
        machine.close()
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": plots.machine(), "versions": versions, "cases": results}, indent=1))
    if arguments.write:
        run_of = f"{arguments.rounds} rounds of {arguments.seconds:g} s"
        plots.write(DOCUMENT, results, CASES, medians, versions, run_of, summary(results))
    say(summary(results))


if __name__ == "__main__":
    main()
