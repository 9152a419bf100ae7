"""Runs tlsfuzzer's scripts against servers and writes what each conversation came to.

In: scripts.txt beside this file (which scripts, with which arguments, against which kind of certificate), a source tree
of tlsfuzzer, the servers. Out: a JSON file, which `table.py` turns into docs/CONFORMANCE.md. Called by tools/conformance.

The scripts are copied and changed in two ways, the same for every server, because what they ask for otherwise is
refused by rustls and by the node alike, and they would show nothing: CBC suites with ECDHE become their AES-GCM
counterparts, and requests become HTTP/1.1, the only ones that a node lends (those padded to an exact length stay as they are).
"""

import argparse
import concurrent.futures
import json
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
# Conversations of a script, at most; scripts with more pick some at random, which would compare nothing.
EVERY = "9999"

CHANGES = [
    (re.compile(r"(TLS_ECDHE_(?:RSA|ECDSA)_WITH_AES_128)_CBC_SHA\b"), r"\1_GCM_SHA256"),
    (re.compile(r"HTTP/1\.0((?:\\r)?\\n)\1"), r"HTTP/1.1\\r\\nHost: conformance.test\\r\\n\\r\\n"),
]


def prepare(source, into):
    """A copy of tlsfuzzer with the changes."""
    if into.exists():
        shutil.rmtree(into)
    shutil.copytree(source / "tlsfuzzer", into / "tlsfuzzer")
    for app in (into / "tlsfuzzer" / "_apps").glob("test_*.py"):
        text = app.read_text()
        for pattern, change in CHANGES:
            text = pattern.sub(change, text)
        app.write_text(text)


def scripts(certificate):
    """(name, arguments) of each script for that kind of certificate."""
    for line in (HERE / "scripts.txt").read_text().splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] == certificate:
            yield words[1], words[2:]


def read(output, late):
    """What each conversation came to, from a script's output: name -> passed. A name that comes twice has to pass twice.
    The one that was under way when a script was cut off is left out."""
    outcomes, name, passed = {}, None, False

    def close():
        if name is not None:
            outcomes[name] = outcomes.get(name, True) and passed

    for line in output.splitlines():
        if line.startswith(("Test end", "====")) and name is not None:
            break
        begin = re.fullmatch(r'"(.+)" repeat \d+ ?(?:\.\.\.)?|(\S.*) \.\.\.', line)
        if begin:
            close()
            name, passed = begin[1] or begin[2], False
        elif re.match(r"OK\b", line):
            passed = True
    if not late:
        close()
    return outcomes


def run_script(args, name, extra):
    """One script against one server."""
    module = f"tlsfuzzer._apps.{name.replace('-', '_')}"
    start = f"import sys; sys.argv[0] = {name!r}; from {module} import main; main()"
    command = [args.python, "-c", start, "-h", args.host, "-p", str(args.port), "-n", EVERY, *extra]
    environment = {"PYTHONPATH": str(args.work), "PYTHONUNBUFFERED": "1", "PATH": "/usr/bin:/bin"}
    late = False
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, cwd=args.work
    ) as process:
        try:
            output, _ = process.communicate(timeout=args.seconds)
        except subprocess.TimeoutExpired:
            late = True
            process.kill()
            output, _ = process.communicate()
    output = output.decode(errors="replace")
    key = " ".join([name, *map(shlex.quote, extra)])
    if args.logs:
        args.logs.mkdir(parents=True, exist_ok=True)
        safe = re.sub(r"[^A-Za-z0-9._-]+", "_", key)[:120]
        (args.logs / f"{args.certificate}-{args.server}-{safe}.log").write_text(output)
    return key, {"outcomes": read(output, late), "late": late}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--certificate", required=True, help="rsa or ecdsa")
    parser.add_argument("--list", action="store_true", help="only say what would run; status 1 if nothing")
    parser.add_argument("--tlsfuzzer", type=pathlib.Path)
    parser.add_argument("--work", type=pathlib.Path)
    parser.add_argument("--python")
    parser.add_argument("--server", help="the column: stock, off, forced")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--results", type=pathlib.Path)
    parser.add_argument("--logs", type=pathlib.Path)
    parser.add_argument("--only", default="", help="regular expression for scripts")
    parser.add_argument("--seconds", type=int, default=600, help="longest run of a script")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    wanted = [(name, extra) for name, extra in scripts(args.certificate) if re.search(args.only, name)]
    if args.list:
        print(f"{args.certificate}: {len(wanted)} runs of scripts")
        sys.exit(not wanted)
    args.work = args.work.resolve()
    prepare(args.tlsfuzzer, args.work)
    results = json.loads(args.results.read_text()) if args.results.exists() else {}
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        runs = [pool.submit(run_script, args, name, extra) for name, extra in wanted]
        for run in concurrent.futures.as_completed(runs):
            key, result = run.result()
            results.setdefault(f"{args.certificate} {key}", {})[args.server] = result
            outcomes = result["outcomes"].values()
            late = ", not finished" if result["late"] else ""
            print(f"{args.server:6} {key}: {sum(outcomes)} of {len(outcomes)} pass{late}", flush=True)
            args.results.write_text(json.dumps(results, indent=1, sort_keys=True))


if __name__ == "__main__":
    main()
