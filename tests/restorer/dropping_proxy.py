"""A TCP proxy in front of a PostgreSQL on 127.0.0.1 that cuts every connection after a while. Prints its port.

python dropping_proxy.py PORT [BYTES]: cut (with a reset) once the client has sent BYTES, 200,000 unless told.
"""

from __future__ import annotations

import socket
import struct
import sys
import threading


def main() -> None:
    port, limit = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 200_000
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(listening.getsockname()[1], flush=True)
        while True:
            client, _ = listening.accept()
            server = socket.create_connection(("127.0.0.1", port))
            threading.Thread(target=_pump, args=(client, server, limit), daemon=True).start()
            threading.Thread(target=_pump, args=(server, client, 1 << 62), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket, limit: int) -> None:
    try:
        while limit > 0 and (data := source.recv(65536)):
            sink.sendall(data[:limit])
            limit -= len(data)
    except OSError:
        pass
    for end in (source, sink):
        try:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        end.close()


if __name__ == "__main__":
    main()
