"""Python's ssl and http.client against a node: ADDRESS NAME CA TLS-VERSION.

Keep-alive requests whose replies are sealed here and there in turn, pipelined requests, an upload, and one
resumption. Fails with a traceback.
"""

import http.client
import socket
import ssl
import struct
import sys

MASK = (1 << 64) - 1


def splitmix64(x):
    z = (x + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def pattern(seed, size):
    blocks = (splitmix64((seed + i) & MASK) for i in range((size + 63) // 64))
    words = ((block + i * 0x9E3779B97F4A7C15) & MASK for block in blocks for i in range(8))
    return b"".join(struct.pack("<Q", word) for word in words)[:size]


def fnv1a(body):
    value = 0xCBF29CE484222325
    for byte in body:
        value = ((value ^ byte) * 0x100000001B3) & MASK
    return value


def main():
    address, name, ca, version = sys.argv[1:]
    context = ssl.create_default_context(cafile=ca)
    context.minimum_version = context.maximum_version = {
        "1.2": ssl.TLSVersion.TLSv1_2,
        "1.3": ssl.TLSVersion.TLSv1_3,
    }[version]

    def connect(session=None):
        raw = socket.create_connection((address, 443), timeout=60)
        return context.wrap_socket(raw, server_hostname=name, session=session)

    tls = connect()
    assert tls.version() == "TLSv" + version, tls.version()
    for seed, size in enumerate([0, 1, 1024, 16383, 16384, 65536, 1 << 20, 7]):
        for lend in (0, 1):
            tls.sendall(
                f"GET /?bytes={size}&seed={seed}&lend={lend} HTTP/1.1\r\nHost: {name}\r\n\r\n".encode()
            )
            reply = http.client.HTTPResponse(tls)
            reply.begin()
            body = reply.read()
            assert reply.status == 200 and body == pattern(seed, size), (seed, size, lend, reply.status)

    # Pipelined: one write, replies in order. One buffered reader, since replies share records.
    requests = [(seed, 37 * seed, seed % 2) for seed in range(30)]
    tls.sendall(
        "".join(
            f"GET /?bytes={size}&seed={seed}&lend={lend} HTTP/1.1\r\nHost: {name}\r\n\r\n"
            for seed, size, lend in requests
        ).encode()
    )
    stream = tls.makefile("rb")
    for seed, size, _ in requests:
        assert stream.readline().startswith(b"HTTP/1.1 200 ")
        headers = http.client.parse_headers(stream)
        body = stream.read(int(headers["Content-Length"]))
        assert body == pattern(seed, size), (seed, size)

    upload = pattern(99, 3000)
    tls.sendall(
        f"POST /?bytes=5 HTTP/1.1\r\nHost: {name}\r\nContent-Length: {len(upload)}\r\n\r\n".encode() + upload
    )
    assert stream.readline().startswith(b"HTTP/1.1 200 ")
    headers = http.client.parse_headers(stream)
    stream.read(int(headers["Content-Length"]))
    assert int(headers["X-Body-Bytes"]) == len(upload)
    assert int(headers["X-Body-Hash"], 16) == fnv1a(upload)

    again = connect(tls.session)
    assert again.session_reused
    again.sendall(f"GET /?bytes=9&seed=1 HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
    reply = http.client.HTTPResponse(again)
    reply.begin()
    assert reply.read() == pattern(1, 9)
    # unwrap() says close_notify and waits for the server's: a TLS connection that ends as it should.
    again.unwrap().close()
    tls.unwrap().close()


main()
