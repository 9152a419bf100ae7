"""Python's ssl with the wire in our hands: ADDRESS NAME CA TLS-VERSION COMMAND [ARGUMENT].

    pieces          handshakes whose first message comes in many records, many segments, or both
    ends            one connection that ends with close_notify, one that is cut by FIN
    records BYTES   replies sealed here and there, in records of at most so many bytes of ciphertext
    capture FILE    one connection with replies sealed here and there, as a capture in the pcap format

Fails with a traceback.
"""

import socket
import ssl
import struct
import sys


class Wire:
    """A TLS connection whose bytes pass through here."""

    def __init__(self, address, name, ca, version, hello=lambda hello: [hello]):
        context = ssl.create_default_context(cafile=ca)
        context.minimum_version = context.maximum_version = {
            "1.2": ssl.TLSVersion.TLSv1_2,
            "1.3": ssl.TLSVersion.TLSv1_3,
        }[version]
        self.name, self.passed, self.unread = name, [], b""
        self.longest = 0
        self.socket = socket.create_connection((address, 443), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.input, self.output = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.input, self.output, server_hostname=name)
        assert self.step(self.tls.do_handshake) is None
        for part in hello(self.output.read()):
            self.send(part)
        self.run(self.tls.do_handshake)

    def step(self, work):
        try:
            return work()
        except ssl.SSLWantReadError:
            return None

    def send(self, data):
        self.passed.append((True, data))
        self.socket.sendall(data)

    def run(self, work, *arguments):
        """Does `work`, moving bytes until it is done."""
        while True:
            try:
                result = work(*arguments)
            except ssl.SSLWantReadError:
                result = None
                wants = True
            else:
                wants = False
            if self.output.pending:
                self.send(self.output.read())
            if not wants:
                return result
            data = self.socket.recv(65536)
            assert data, "the server has ended"
            self.passed.append((False, data))
            self.look(data)
            self.input.write(data)

    def look(self, data):
        """Measures the records the server sends."""
        self.unread += data
        while len(self.unread) >= 5:
            size = struct.unpack(">H", self.unread[3:5])[0]
            if len(self.unread) < 5 + size:
                break
            self.longest = max(self.longest, size)
            self.unread = self.unread[5 + size :]

    def get(self, size, lend):
        request = f"GET /?bytes={size}&seed=1&lend={lend} HTTP/1.1\r\nHost: {self.name}\r\n\r\n"
        self.run(self.tls.write, request.encode())
        reply = b""
        while b"\r\n\r\n" not in reply:
            reply += self.run(self.tls.read, 65536)
        head, _, body = reply.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        while len(body) < size:
            body += self.run(self.tls.read, 65536)
        assert len(body) == size, (len(body), size)
        return body

    def close(self):
        self.run(self.tls.unwrap)
        self.socket.close()


def records(hello, size):
    """The same handshake message in records of at most `size` bytes."""
    assert hello[0] == 22
    header, message = hello[:3], hello[5:]
    parts = [message[at : at + size] for at in range(0, len(message), size)]
    return [header + struct.pack(">H", len(part)) + part for part in parts]


def pieces(connect):
    ways = [
        lambda hello: [hello[at : at + 1] for at in range(0, 40)] + [hello[40:]],
        lambda hello: [hello[at : at + 100] for at in range(0, len(hello), 100)],
        lambda hello: records(hello, 1),
        lambda hello: records(hello, 37),
        lambda hello: [b"".join(records(hello, 1))],
        lambda hello: [b"".join(records(hello, 64))],
    ]
    for way in ways:
        wire = connect(hello=way)
        wire.get(3000, 0)
        wire.get(3000, 1)
        wire.close()


def ends(connect):
    connect().close()
    wire = connect()
    wire.get(10, 0)
    wire.socket.shutdown(socket.SHUT_WR)
    # The server says close_notify all the same, and ends.
    while data := wire.socket.recv(65536):
        wire.input.write(data)
    assert wire.tls.read(1) == b""


def capture(connect, path):
    """Everything on the wire, as packets between two made-up hosts: what the test is about is inside of TCP."""
    wire = connect()
    for size, lend in [(100, 0), (40000, 1), (300, 0), (20000, 1)]:
        wire.get(size, lend)
    wire.close()
    ends, ports, sequences = (b"\n\0\0\1", b"\n\0\0\2"), (40000, 443), [1, 1]
    with open(path, "wb") as file:
        # Version 2.4, no time zone, whole packets, raw IP (LINKTYPE_RAW).
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 101))
        time = 0
        for from_client, data in wire.passed:
            us, them = (0, 1) if from_client else (1, 0)
            for at in range(0, len(data), 1400):
                part = data[at : at + 1400]
                tcp = struct.pack(
                    ">HHIIBBHHH", ports[us], ports[them], sequences[us], sequences[them], 0x50, 0x18, 65535, 0, 0
                )
                length = 20 + len(tcp) + len(part)
                ip = struct.pack(">BBHHHBBH", 0x45, 0, length, time & 0xFFFF, 0, 64, 6, 0) + ends[us] + ends[them]
                file.write(struct.pack("<IIII", time // 1000000, time % 1000000, length, length))
                file.write(ip + tcp + part)
                sequences[us] += len(part)
                time += 10


def main():
    address, name, ca, version, command, *arguments = sys.argv[1:]

    def connect(**options):
        return Wire(address, name, ca, version, **options)

    if command == "pieces":
        pieces(connect)
    elif command == "ends":
        ends(connect)
    elif command == "records":
        wire = connect()
        for size in [0, 1, 400, 20000, 100000]:
            assert wire.get(size, 0) == wire.get(size, 1)
        wire.close()
        assert wire.longest <= int(arguments[0]), wire.longest
    elif command == "capture":
        capture(connect, arguments[0])
    else:
        sys.exit(__doc__)


main()
