"""An origin server on Unix sockets, by Python's http.server: python_origin.py SOCKET

/wait reads nothing of a body before there is a file SOCKET.go, /pause sends the second half of its reply then."""

import hashlib
import http.server
import json
import os
import socketserver
import sys
import threading
import time


def wait_to_go_on():
    while not os.path.exists(sys.argv[1] + ".go"):
        time.sleep(0.01)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def address_string(self):
        return "unix"

    def log_message(self, *arguments):
        pass

    def body(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        path = self.path.split("?")[0]
        if path == "/fields":
            self.body(200, json.dumps([list(field) for field in self.headers.items()]).encode())
        elif path == "/chunked":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for number in range(200):
                piece = bytes([number]) * (number * 7 + 1)
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
        elif path == "/pause":
            self.send_response(200)
            self.send_header("Content-Length", "200000")
            self.end_headers()
            self.wfile.write(b"x" * 100000)
            self.wfile.flush()
            wait_to_go_on()
            self.wfile.write(b"x" * 100000)
        elif path in ("/half", "/half-chunked"):
            # Stands still in the midst of its body, until the test kills it.
            self.send_response(200)
            if path == "/half":
                self.send_header("Content-Length", "1000000")
                piece = b"x" * 500000
            else:
                self.send_header("Transfer-Encoding", "chunked")
                piece = b"7a120\r\n" + b"x" * 500000 + b"\r\n"
            self.end_headers()
            self.wfile.write(piece)
            self.wfile.flush()
            threading.Event().wait()
        else:
            self.body(404, b"nothing here")

    def pieces(self):
        """The body, as it comes."""
        if "Content-Length" in self.headers:
            left = int(self.headers["Content-Length"])
            while left > 0:
                piece = self.rfile.read1(min(left, 65536))
                if not piece:
                    raise ConnectionError("half a body")
                left -= len(piece)
                yield piece
            return
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def do_POST(self):
        path = self.path.split("?")[0]
        if path == "/early":
            self.rfile.read(100000)
            self.close_connection = True
            self.body(413, b"enough")
            # To the end: a reset would take the reply along.
            while self.rfile.read1(65536):
                pass
        elif path in ("/sum", "/wait"):
            if path == "/wait":
                wait_to_go_on()
            count, digest = 0, hashlib.sha256()
            for piece in self.pieces():
                count += len(piece)
                digest.update(piece)
            self.body(200, f"{count} {digest.hexdigest()}".encode())
        else:
            self.body(201, self.rfile.read(int(self.headers["Content-Length"])))


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 128

    def get_request(self):
        request, _ = super().get_request()
        return request, ("unix", 0)


if os.path.exists(sys.argv[1]):
    os.unlink(sys.argv[1])
Server(sys.argv[1], Handler).serve_forever()
