#!/usr/bin/python3 -E
"""Stands in for QEMU: takes the sockets it inherits and plays the guest that `-append` names."""
import json, os, re, socket, struct, sys, threading, time

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


phases = ["attesting"]


def play(stream):
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
            left = ["unlocking", "starting", "ready"][len(phases) - 1 :]
            for phase in left[:1] if mode == "steps" else left:
                phases.append(phase)
                report(stream, phase)
        elif frame["type"] == "shutdown" and mode != "deaf":
            report(stream, "stopping")
            time.sleep(0.1)
            sys.exit(0)


def monitor(listener):
    """QMP, as far as the agent speaks it."""
    listener.setblocking(True)
    while True:
        lines = listener.accept()[0].makefile("rw")
        answers = {"query-status": {"status": "running"}}
        try:
            print(json.dumps({"QMP": {}}), file=lines, flush=True)
            for line in lines:
                command = json.loads(line)["execute"]
                print(json.dumps({"return": answers.get(command, {})}), file=lines, flush=True)
                if command == "quit":
                    os._exit(0)
        except OSError:
            pass


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def echo_server():
    """A guest with one TCP port, 22, that sends back what it gets: raw frames on the tap."""
    tap = int(re.search(r"tap,id=net0,fd=(\d+)", arguments).group(1))
    os.set_blocking(tap, True)
    mac = bytes.fromhex(re.search(r"mac=([0-9a-f:]+)", arguments).group(1).replace(":", ""))

    def send(to, kind, payload):
        os.write(tap, bytes(10) + to + mac + struct.pack(">H", kind) + payload)

    def send_tcp(frame, flags, sequence, acknowledged, data):
        source, target = frame[30:34], frame[26:30]
        tcp = frame[34:]
        segment = tcp[2:4] + tcp[0:2] + struct.pack(">IIBBHHH", sequence, acknowledged, 0x50, flags, 0xFFFF, 0, 0) + data
        total = checksum(source + target + struct.pack(">HH", 6, len(segment)) + segment)
        segment = segment[:16] + struct.pack(">H", total) + segment[18:]
        header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(segment), 0, 0x4000, 64, 6, 0) + source + target
        header = header[:10] + struct.pack(">H", checksum(header)) + header[12:]
        send(frame[6:12], 0x0800, header + segment)

    while True:
        frame = os.read(tap, 4096)[10:]
        kind = struct.unpack(">H", frame[12:14])[0]
        if kind == 0x0806 and frame[20:22] == b"\0\1":
            send(frame[6:12], 0x0806, frame[14:20] + b"\0\2" + mac + frame[38:42] + frame[22:32])
        if kind != 0x0800 or frame[23] != 6:
            continue
        tcp = frame[34 : 14 + struct.unpack(">H", frame[16:18])[0]]
        sequence, acknowledged = struct.unpack(">II", tcp[4:12])
        flags, data = tcp[13], tcp[(tcp[12] >> 4) * 4 :]
        if tcp[2:4] != b"\0\x16":
            send_tcp(frame, 0x14, 0, sequence + 1, b"")
        elif flags & 2:
            send_tcp(frame, 0x12, 1000, sequence + 1, b"")
        elif data:
            send_tcp(frame, 0x18, acknowledged, sequence + len(data), data)
        elif flags & 1:
            send_tcp(frame, 0x11, acknowledged, sequence + 1, b"")


if mode == "echoes":
    echo_server()
if mode == "silent":
    time.sleep(3600)
if mode == "steps":
    # Answers on QMP, boots until the file `go` is beside this program, then takes one step for each of the broker's messages.
    threading.Thread(target=monitor, args=(inherited("qmp"),), daemon=True).start()
    while not os.path.exists(os.path.join(os.path.dirname(sys.argv[0]), "go")):
        time.sleep(0.01)
if mode == "dies":
    print("qemu-stub: cannot start", file=sys.stderr)
    sys.exit(1)
listener = inherited("guest")
listener.setblocking(True)
while True:
    try:
        play(listener.accept()[0])
    except (BrokenPipeError, ConnectionResetError):
        pass  # The agent that had connected was killed.
