#!/usr/bin/python3 -E
"""Stands in for QEMU: takes the sockets it inherits and plays the guest that `-append` names."""
import json, os, re, socket, struct, sys, time

arguments = " ".join(sys.argv[1:])
mode = sys.argv[sys.argv.index("-append") + 1].split()[0]
BOOT = "boot_00000000000000000000000001"


def inherited(name):
    return socket.socket(fileno=int(re.search(rf"id={name},fd=(\d+)", arguments).group(1)))


def read_exactly(stream, count):
    data = b""
    while len(data) < count:
        part = stream.recv(count - len(data))
        if not part:
            return None
        data += part
    return data


def read_frame(stream):
    head = read_exactly(stream, 4)
    body = head and read_exactly(stream, struct.unpack(">I", head)[0])
    return body and json.loads(body)


def write_frame(stream, message):
    body = json.dumps(message).encode()
    stream.sendall(struct.pack(">I", len(body)) + body)


def report(stream, phase, reason=None):
    write_frame(stream, {"type": "report", "boot": BOOT, "phase": phase, "reason": reason})


def play(stream):
    phases = ["attesting"]
    while (frame := read_frame(stream)) is not None:
        if frame["type"] == "start":
            assert len(frame["ek_chain"]) == 2
            report(stream, phases[-1])
            write_frame(stream, {"type": "to-broker", "boot": BOOT, "seq": 1, "body": "aGVsbG8="})
            if mode == "garbage":
                stream.sendall(b"\xff" * 64)
            if mode == "gives-up":
                report(stream, "failed", "release-timeout")
                time.sleep(0.2)
                sys.exit(0)
        elif frame["type"] == "from-broker" and phases[-1] != "ready":
            for phase in ["unlocking", "starting", "ready"]:
                phases.append(phase)
                report(stream, phase)
        elif frame["type"] == "shutdown" and mode != "deaf":
            report(stream, "stopping")
            time.sleep(0.1)
            sys.exit(0)


if mode == "silent":
    time.sleep(3600)
if mode == "dies":
    print("qemu-stub: cannot start", file=sys.stderr)
    sys.exit(1)
listener = inherited("guest")
listener.setblocking(True)
while True:
    play(listener.accept()[0])
