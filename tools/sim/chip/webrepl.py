# What the firmware freezes in under this name (micropython-lib, micropython/net/webrepl): the same
# functions with the same words on the wire.
import binascii
import hashlib
import network
import os
import socket
import sys
import websocket

import _webrepl

listen_s = None
client_s = None
static_host = "https://micropython.org/webrepl/"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def server_handshake(cl):
    head = cl.makefile("rwb", 0)
    head.readline()
    key = None
    upgrade = kind = False
    while True:
        line = head.readline()
        if not line:
            return False
        if line == b"\r\n":
            break
        name, value = [part.strip() for part in line.split(b":", 1)]
        if name == b"Sec-WebSocket-Key":
            key = value
        elif name == b"Connection" and b"Upgrade" in value:
            upgrade = True
        elif name == b"Upgrade" and value == b"websocket":
            kind = True
    if not (upgrade and kind and key):
        return False
    digest = hashlib.sha1(key)
    digest.update(_GUID)
    cl.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
    cl.send(b"Sec-WebSocket-Accept: ")
    cl.send(binascii.b2a_base64(digest.digest())[:-1])
    cl.send("\r\n\r\n")
    return True


def send_html(cl):
    cl.send(b'HTTP/1.0 200 OK\r\n\r\n<base href="')
    cl.send(static_host)
    cl.send(b'"></base>\r\n<script src="webrepl_content.js"></script>\r\n')
    cl.close()


def setup_conn(port, accept_handler):
    global listen_s
    listen_s = socket.socket()
    listen_s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listen_s.bind(socket.getaddrinfo("0.0.0.0", port)[0][4])
    listen_s.listen(1)
    if accept_handler:
        listen_s.setsockopt(socket.SOL_SOCKET, 20, accept_handler)
    started = False
    for kind in (network.AP_IF, network.STA_IF):
        wlan = network.WLAN(kind)
        if wlan.active():
            print("WebREPL server started on http://%s:%d/" % (wlan.ifconfig()[0], port))
            started = True
    if not started:
        print("WebREPL no active interface")
    return listen_s


def accept_conn(listen_sock):
    global client_s
    cl, peer = listen_sock.accept()
    if not server_handshake(cl):
        send_html(cl)
        return False
    before = os.dupterm(None)
    os.dupterm(before)
    if before:
        print("\nConcurrent WebREPL connection from", peer, "rejected")
        cl.close()
        return False
    print("\nWebREPL connection from:", peer)
    client_s = cl
    stream = _webrepl._webrepl(websocket.websocket(cl, True))
    cl.setblocking(False)
    cl.setsockopt(socket.SOL_SOCKET, 20, os.dupterm_notify)
    os.dupterm(stream)
    return True


def stop():
    global listen_s, client_s
    os.dupterm(None)
    if client_s:
        client_s.close()
    if listen_s:
        listen_s.close()


def start(port=8266, password=None, accept_handler=accept_conn):
    global static_host
    stop()
    given = password
    if given is None:
        try:
            import webrepl_cfg

            given = webrepl_cfg.PASS
            if hasattr(webrepl_cfg, "BASE"):
                static_host = webrepl_cfg.BASE
        except:  # noqa: E722 # as there
            print("WebREPL is not configured, run 'import webrepl_setup'")
    _webrepl.password(given)
    door = setup_conn(port, accept_handler)
    if accept_handler is None:
        print("Starting webrepl in foreground mode")
        while not accept_conn(door):
            pass
    elif password is None:
        print("Started webrepl in normal mode")
    else:
        print("Started webrepl in manual override mode")


def start_foreground(port=8266, password=None):
    start(port, password, None)
