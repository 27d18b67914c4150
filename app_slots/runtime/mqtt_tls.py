"""TLS to the broker; loaded for a connection that is to have it."""

# config: MQTT_CA = ""

import sys

import config
import ota


def secure(s, host):
    """Return the socket `s` with TLS, whose handshake goes on with each read and write.

    The broker has to prove that it is `host`, to the authority whose certificate (DER) the release
    holds as `config.MQTT_CA`; where that names none, the line is secret but anybody may be at its
    end. Raises ValueError on an ESP8266, which has neither the heap for it nor any verification,
    OSError when there is no such file.
    """
    if sys.platform == "esp8266":
        raise ValueError("TLS to the broker needs an ESP32")
    try:
        import tls
    except ImportError:
        import ssl as tls  # its name until 1.22
    context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
    authority = getattr(config, "MQTT_CA", "")
    if authority:
        with open("/app_slots/%s/%s" % (ota.slot, authority), "rb") as f:
            context.load_verify_locations(f.read())  # pyright: ignore
        context.verify_mode = tls.CERT_REQUIRED  # pyright: ignore
    else:
        context.verify_mode = tls.CERT_NONE  # pyright: ignore
    return context.wrap_socket(s, server_hostname=host, do_handshake_on_connect=False)
