"""Python's http.client and email parser against the files of a node: ADDRESS NAME CA QUERY, files as static_files.rs
makes them. One connection for everything that keeps it. Prints nothing; fails with a traceback.
"""

import email
import http.client
import socket
import ssl
import sys
from email.utils import parsedate_to_datetime

address, name, ca, query = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
connection = http.client.HTTPSConnection(name, 443, timeout=60, context=context)
connection._create_connection = lambda _, *rest, **more: socket.create_connection((address, 443), 60)


def ask(method, path, **fields):
    headers = {key.replace("_", "-"): value for key, value in fields.items()}
    connection.request(method, path + query, headers=headers)
    reply = connection.getresponse()
    return reply, reply.read()


big = bytes(index % 251 for index in range(100_000))
reply, body = ask("GET", "/big.bin")
assert (reply.status, body) == (200, big), reply.status
tag, modified = reply.headers["ETag"], reply.headers["Last-Modified"]
assert tag.startswith('"') and reply.headers["Accept-Ranges"] == "bytes"
assert reply.headers["Content-Type"] == "application/octet-stream"
local = connection.sock.getsockname()

reply, body = ask("HEAD", "/big.bin")
assert (reply.status, body, reply.headers["Content-Length"]) == (200, b"", "100000")
for fields, status in [
    ({"If_None_Match": tag}, 304),
    ({"If_None_Match": '"x", W/' + tag}, 304),
    ({"If_None_Match": '"x"', "If_Modified_Since": modified}, 200),
    ({"If_Modified_Since": modified}, 304),
    ({"If_Match": tag}, 200),
    ({"If_Match": "W/" + tag}, 412),
    ({"If_Unmodified_Since": "Thu, 01 Jan 1970 00:00:01 GMT"}, 412),
]:
    for method in ("GET", "HEAD"):
        reply, body = ask(method, "/big.bin", **fields)
        assert reply.status == status, (method, fields, reply.status)
        assert body == (big if (method, status) == ("GET", 200) else body if status == 412 else b"")
parsedate_to_datetime(modified)

for spec, part in [("0-0", big[:1]), ("16383-16385", big[16383:16386]), ("-70000", big[-70000:]), ("99999-", big[-1:])]:
    reply, body = ask("GET", "/big.bin", Range="bytes=" + spec, If_Range=tag)
    assert (reply.status, body) == (206, part), (spec, reply.status, len(body))
    assert reply.headers["Content-Range"].endswith("/100000")
    reply, body = ask("GET", "/big.bin", Range="bytes=" + spec, If_Range='"other"')
    assert (reply.status, body) == (200, big), spec
reply, body = ask("GET", "/big.bin", Range="bytes=100000-")
assert (reply.status, reply.headers["Content-Range"]) == (416, "bytes */100000")

reply, body = ask("GET", "/big.bin", Range="bytes=5-9,20000-59999,-3")
assert reply.status == 206 and "Content-Range" not in reply.headers
head = b"Content-Type: " + reply.headers["Content-Type"].encode() + b"\r\n\r\n"
parts = email.message_from_bytes(head + body).get_payload()
found = [(part["Content-Range"], part.get_payload(decode=True)) for part in parts]
spans = [(5, 10), (20000, 60000), (99997, 100000)]
# email keeps line ends as they are but may take the last one of a part for the delimiter's; compare the lengths sent.
assert [where for where, _ in found] == [f"bytes {start}-{end - 1}/100000" for start, end in spans]
at = 0
for start, end in spans:
    at = body.index(b"\r\n\r\n", at) + 4
    assert body[at : at + end - start] == big[start:end], (start, end)
    at += end - start
assert body[at:].startswith(b"\r\n--") and body.endswith(b"--\r\n")

for method, path, status in [
    ("OPTIONS", "/", 204),
    ("DELETE", "/big.bin", 405),
    ("POST", "/big.bin", 405),
    ("BREW", "/big.bin", 501),
    ("GET", "/sub", 301),
    ("GET", "/sub/", 200),
    ("GET", "/none", 404),
    ("GET", "/.hidden", 404),
    ("GET", "/%2e%2e/secret", 404),
    ("GET", "/..%2fsecret", 404),
    ("GET", "/%252e%252e/secret", 404),
    ("GET", "/out", 404),
    ("GET", "/outside/secret", 404),
    ("GET", "/a%00b", 400),
]:
    reply, body = ask(method, path)
    assert reply.status == status, (method, path, reply.status)
    assert b"secret" not in body
    if status in (204, 405):
        assert reply.headers["Allow"] == "GET, HEAD, OPTIONS"
    if status == 301:
        assert reply.headers["Location"].startswith("/sub/?")
assert connection.sock.getsockname() == local, "one connection for all"
