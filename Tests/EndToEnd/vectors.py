#!/usr/bin/env python3
"""The test vectors of docs/PROTOCOL.md.

    vectors.py                     prints the Markdown section
    vectors.py --check FILE        fails, with the difference, unless FILE ends with exactly this section
    vectors.py --write FILE        replaces the section in FILE, or appends it

Needs two packages: pip install noiseprotocol==0.3.1 PyNaCl

Every handshake is computed twice: here, step by step as PROTOCOL §4 has it, on libsodium (PyNaCl); and by noiseprotocol,
on OpenSSL, as initiator and as responder. All have to agree, and the steps have to give the published vector of the
pattern, or nothing is printed.
"""

import argparse
import base64
import difflib
import hashlib
import json
import struct
import sys
import warnings

from nacl import bindings as sodium
from noise.connection import Keypair, NoiseConnection

PROTOCOL_NAME = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2b"
PROLOGUE = b"kl-tunnel v1"
HEADING = "## 20. Test vectors"

# noiseprotocol warns of ephemeral keys that are given to it. Here they have to be.
warnings.filterwarnings("ignore", message="One of ephemeral keypairs")


# ---- PROTOCOL §4.1: functions ----


def blake2b(data, size=64, key=b""):
    return hashlib.blake2b(data, digest_size=size, key=key).digest()


def hmac(key, data):
    assert len(key) <= 128
    key = key.ljust(128, b"\0")
    return blake2b(bytes(x ^ 0x5C for x in key) + blake2b(bytes(x ^ 0x36 for x in key) + data))


def hkdf(chaining_key, data, count):
    secret, outputs, previous = hmac(chaining_key, data), [], b""
    for number in range(1, count + 1):
        previous = hmac(secret, previous + bytes([number]))
        outputs.append(previous)
    return outputs


def public(private):
    return sodium.crypto_scalarmult_base(private)


def dh(private, other):
    return sodium.crypto_scalarmult(private, other)


def nonce(counter):
    return bytes(4) + struct.pack("<Q", counter)


def seal(key, counter, additional, plaintext):
    return sodium.crypto_aead_chacha20poly1305_ietf_encrypt(plaintext, additional, nonce(counter), key[:32])


# ---- PROTOCOL §4.2: key schedule ----


class Handshake:
    """Both messages and all between, from everyone's private keys. `trace` has each intermediate value by name."""

    def __init__(self, name, prologue, s_i, s_r, e_i, e_r, psk, payload1, payload2):
        self.trace = []
        pub_i, pub_r, eph_i, eph_r = public(s_i), public(s_r), public(e_i), public(e_r)

        self.h = self.ck = name.ljust(64, b"\0")
        self.mix_hash("prologue", prologue)
        self.mix_hash("S_r", pub_r)

        self.mix_hash("E_i", eph_i)
        self.mix_key("E_i", eph_i, 1)
        key = self.mix_key("es", dh(e_i, pub_r), 2)
        sealed_static = self.seal_and_hash("s", key, pub_i)
        key = self.mix_key("ss", dh(s_i, pub_r), 2)
        self.message1 = eph_i + sealed_static + self.seal_and_hash("payload 1", key, payload1)

        self.mix_hash("E_r", eph_r)
        self.mix_key("E_r", eph_r, 1)
        self.mix_key("ee", dh(e_r, eph_i), 1)
        self.mix_key("se", dh(e_r, pub_i), 1)
        self.ck, tau, key = hkdf(self.ck, psk, 3)
        self.trace += [("ck after psk", self.ck), ("tau", tau), ("k of psk", key[:32])]
        self.mix_hash("tau", tau)
        self.message2 = eph_r + self.seal_and_hash("payload 2", key, payload2)
        k1, k2 = hkdf(self.ck, b"", 2)
        self.k1, self.k2 = k1[:32], k2[:32]

    def mix_hash(self, name, data):
        self.h = blake2b(self.h + data)
        self.trace.append((f"h after {name}", self.h))

    def mix_key(self, name, data, count):
        self.ck, *keys = hkdf(self.ck, data, count)
        if name in ("es", "ss", "ee", "se"):
            self.trace.append((f"DH of {name}", data))
        self.trace.append((f"ck after {name}", self.ck))
        if keys:
            self.trace.append((f"k of {name}", keys[0][:32]))
            return keys[0]

    def seal_and_hash(self, name, key, plaintext):
        sealed = seal(key, 0, self.h, plaintext)
        self.mix_hash(name, sealed)
        return sealed


def check_published_vector():
    """The pattern's entry in the cacophony vectors: two handshake messages, then one of each direction."""
    h = Handshake(
        PROTOCOL_NAME,
        bytes.fromhex("4a6f686e2047616c74"),
        bytes.fromhex("e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1"),
        bytes.fromhex("4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893"),
        bytes.fromhex("893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a"),
        bytes.fromhex("bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b"),
        b"This is my Austrian perspective!",
        b"Ludwig von Mises",
        b"Murray Rothbard",
    )
    expected = [
        "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944b6fe0240b839afac809de1630eaf99d8f9b941394f0512c0"
        "554633bbb021d15176135c0a20e7fdb9a9ed066f22f054b47625b1d5061cb27d6a17f053273db7c25216a5addc506ee321bc0618feb5849d",
        "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f1448088438f627e69fc120006f746b9d420bf4056cf8481ab32d9e904"
        "ffaeeaa56a5290",
        "07fc0034398a5f1010322be193d62f94bebf2948a20b3e15d681fe",
        "2ea5400f5b8a16971c8b67bde75aeb7987d454b1c0beeb2566932d",
        "ed837c9084f2f0333a7ec60b9bcacd9921394858de8ced118b5966d1147ba390084dab42326c565a309c29317a6079be30aa1d790d25a517"
        "b43287426cb1d36a",
    ]
    first, second = seal(h.k1, 0, b"", b"F. A. Hayek"), seal(h.k2, 0, b"", b"Carl Menger")
    assert [x.hex() for x in (h.message1, h.message2, first, second, h.h)] == expected


class Independent:
    """The same handshake by noiseprotocol, both roles, to compare with."""

    def __init__(self, s_i, s_r, e_i, e_r, psk, payload1, payload2):
        self.initiator, self.responder = (self.side(*x, psk) for x in ((s_i, e_i), (s_r, e_r)))
        self.initiator.set_as_initiator()
        self.responder.set_as_responder()
        self.initiator.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, public(s_r))
        self.initiator.start_handshake()
        self.responder.start_handshake()
        self.message1 = bytes(self.initiator.write_message(payload1))
        assert self.responder.read_message(self.message1) == payload1
        self.message2 = bytes(self.responder.write_message(payload2))
        assert self.initiator.read_message(self.message2) == payload2
        self.h = self.initiator.get_handshake_hash()

    @staticmethod
    def side(static, ephemeral, psk):
        side = NoiseConnection.from_name(PROTOCOL_NAME)
        side.set_psks(psk)
        side.set_prologue(PROLOGUE)
        side.set_keypair_from_private_bytes(Keypair.STATIC, static)
        side.set_keypair_from_private_bytes(Keypair.EPHEMERAL, ephemeral)
        return side

    def transfer(self, from_initiator, counter, plaintext):
        sender, receiver = (self.initiator, self.responder)[:: 1 if from_initiator else -1]
        sender.noise_protocol.cipher_state_encrypt.n = counter
        receiver.noise_protocol.cipher_state_decrypt.n = counter
        sealed = bytes(sender.encrypt(plaintext))
        assert receiver.decrypt(sealed) == plaintext
        return sealed


# ---- Encodings: PROTOCOL §1, §3, §4.3, §6, §10 ----


def varint(value):
    for size, mark in ((1, 0), (2, 1), (4, 2), (8, 3)):
        if value < 1 << (8 * size - 2):
            return (value | mark << (8 * size - 2)).to_bytes(size, "big")
    raise ValueError(value)


def timestamp(unix_seconds, nanoseconds):
    return struct.pack(">QI", 2**62 + 10 + unix_seconds, nanoseconds)


def parameters(connection, max_data, max_stream_data, max_streams, max_message_size, dead_after):
    numbers = {
        0x04: max_data,
        0x05: max_stream_data,
        0x08: max_streams,
        0x6B02: max_message_size,
        0x6B03: dead_after,
    }
    values = {identifier: varint(value) for identifier, value in numbers.items()} | {0x6B01: connection}
    return b"".join(varint(i) + varint(len(v)) + v for i, v in sorted(values.items()))


def pad_parameters(payload, size):
    room = size - len(payload)
    length = varint(room - 2) if room - 2 < 64 else varint(room - 3)
    return payload + varint(0) + length + bytes(room - 1 - len(length))


def ping():
    return b"\x01"


def ack(largest, *ranges):
    """`ranges`: first range's length - 1, then gap and length - 1 of each further one. No delay."""
    first, *rest = ranges
    return b"\x02" + b"".join(map(varint, (largest, 0, len(rest) // 2, first, *rest)))


def stream(identifier, offset, data, fin=False):
    kind = 0x08 | 0x02 | (0x04 if offset else 0) | (0x01 if fin else 0)
    return bytes([kind]) + varint(identifier) + (varint(offset) if offset else b"") + varint(len(data)) + data


def control(message):
    text = json.dumps(message, separators=(",", ":")).encode()
    return struct.pack(">I", len(text)) + text


def padded(frames):
    return frames + bytes(-len(frames) % 16)


# ---- PROTOCOL §5: macs ----


def mac_key(receiver):
    return blake2b(b"mac1----" + receiver, 32)


def with_macs(message, receiver, cookie=None):
    message += blake2b(message, 16, mac_key(receiver))
    return message + (blake2b(message, 16, cookie) if cookie else bytes(16))


# ---- The story ----


def fixed(name, size=32):
    return blake2b(b"kl-tunnel v1 vectors: " + name.encode(), size)


S_I, S_R, PSK = fixed("initiator static"), fixed("responder static"), fixed("psk")
FIRST_ASKED, HELD, FRESH = fixed("asked", 8), fixed("held", 8), fixed("fresh", 8)
TIME = 1_767_225_600  # 2026-01-01T00:00:00Z


class Exchange:
    """One initiation, its response, and the keys."""

    def __init__(self, name, indices, time, asked, answered, psk=PSK, cookie=None):
        self.e_i, self.e_r = fixed(f"{name}, initiator ephemeral"), fixed(f"{name}, responder ephemeral")
        self.index_i, self.index_r = indices
        self.timestamp = timestamp(*time)
        payload1 = self.timestamp + parameters(asked, 1_048_576, 131_072, 8_192, 16_416, 6_000)
        self.payload1 = pad_parameters(payload1, 120)
        self.payload2 = parameters(answered, 1_048_576, 131_072, 1, 65_552, 4_000)
        arguments = (S_I, S_R, self.e_i, self.e_r, psk, self.payload1, self.payload2)
        self.noise = Handshake(PROTOCOL_NAME, PROLOGUE, *arguments)
        self.independent = Independent(*arguments)
        for field in ("message1", "message2", "h"):
            assert getattr(self.noise, field) == getattr(self.independent, field), field
        head1 = struct.pack("<II", 1, self.index_i)
        head2 = struct.pack("<III", 2, self.index_r, self.index_i)
        self.initiation = with_macs(head1 + self.noise.message1, public(S_R), cookie)
        self.response = with_macs(head2 + self.noise.message2, public(S_I))
        assert len(self.initiation) == 256 and len(self.response) <= 256

    def data(self, from_initiator, counter, frames):
        key, index = (self.noise.k1, self.index_r) if from_initiator else (self.noise.k2, self.index_i)
        plaintext = padded(frames)
        sealed = seal(key, counter, b"", plaintext)
        assert sealed == self.independent.transfer(from_initiator, counter, plaintext)
        return plaintext, struct.pack("<IIQ", 4, index, counter) + sealed

    def inputs(self):
        return [
            ("initiator ephemeral private", self.e_i),
            ("responder ephemeral private", self.e_r),
            ("initiator index", self.index_i),
            ("responder index", self.index_r),
            ("timestamp", self.timestamp),
            ("payload 1", self.payload1),
            ("payload 2", self.payload2),
        ]

    def results(self):
        return [
            ("initiation", self.initiation),
            ("response", self.response),
            ("handshake hash", self.noise.h),
            ("key initiator to responder", self.noise.k1),
            ("key responder to initiator", self.noise.k2),
        ]

    def data_lines(self, *messages):
        lines = []
        for from_initiator, counter, frames in messages:
            who = "initiator" if from_initiator else "responder"
            plaintext, message = self.data(from_initiator, counter, frames)
            lines += [(f"{who} {counter} frames", plaintext), (f"{who} {counter} message", message)]
        return lines


def block(values):
    lines = ["```text"]
    for name, value in values:
        if isinstance(value, int):
            lines.append(f"{name} = {value:#010x}")
            continue
        digits = value.hex() if isinstance(value, bytes) else value
        lines.append(f"{name} =")
        lines += ["  " + digits[at : at + 64] for at in range(0, len(digits), 64)]
    return "\n".join(lines + ["```"])


def section():
    check_published_vector()
    initiator, responder = True, False
    parts = []

    def say(text, *values):
        parts.append(text.strip("\n"))
        if values:
            parts.append(block(values))

    first = Exchange("first", (0x01020304, 0xA1A2A3A4), (TIME, 123_456_789), FIRST_ASKED, HELD)
    say(
        f"""
{HEADING}

Written by `Tests/EndToEnd/vectors.py`, which also checks that this section is what it writes. Each handshake was computed
by two implementations on two libraries, and the steps of §4 also give the published vector for the pattern.

Bytes are hexadecimal, 32 a line, in the order in which they are sent; an index is the number. Where a value is chosen at
random in reality it is fixed here, and nothing depends on how it was chosen. Initiations have 256 bytes, as on a byte stream.

### 20.1 Keys""",
        ("initiator static private", S_I),
        ("initiator static public", public(S_I)),
        ("responder static private", S_R),
        ("responder static public", public(S_R)),
        ("psk", PSK),
        ("mac1 key for initiations", mac_key(public(S_R))),
        ("mac1 key for responses", mac_key(public(S_I))),
    )
    say(f"As text the public keys are `{text(S_I)}` and `{text(S_R)}`.")

    say(
        """
### 20.2 A first handshake

The initiator holds no connection and names a random id. The responder doesn't know it, and answers with a fresh one. The
timestamp is 2026-01-01T00:00:00Z and 123,456,789 ns. `payload 1` is the timestamp, then 0x04 = 1,048,576,
0x05 = 131,072, 0x08 = 8,192, 0x6b01, 0x6b02 = 16,416, 0x6b03 = 6,000, and padding; `payload 2` 0x04 = 1,048,576,
0x05 = 131,072, 0x08 = 1, 0x6b01, 0x6b02 = 65,552, 0x6b03 = 4,000.""",
        ("connection id named", FIRST_ASKED),
        ("connection id answered", HELD),
        *first.inputs(),
    )
    say(
        """
Step by step. *h after x*: x has been hashed into h; for `s` and the payloads that is their ciphertext. *k of x*: the AEAD
key, so 32 bytes.""",
        *first.noise.trace,
    )
    say("The messages and what comes of them:", *first.results())
    unset = Exchange("first", (0x01020304, 0xA1A2A3A4), (TIME, 123_456_789), FIRST_ASKED, HELD, psk=bytes(32))
    assert unset.initiation == first.initiation
    say("The same without a PSK, which is 32 zero bytes. The initiation is the same.", *unset.results()[1:])

    start = {
        "type": "start",
        "generation": 1,
        "workspace": "ada@thinkpad",
        "ports": [{"service": 8080, "transport": "tcp"}],
        "onUnavailable": "original",
        "drainSeconds": 10,
    }
    header = struct.pack(">BBHB4sH", 1, 6, 8080, 4, bytes([192, 0, 2, 7]), 40_000)
    say(
        """
### 20.3 The first data messages

In the session of 20.2 with the PSK, in this order:

| message | frames before PADDING |
|---|---|
| initiator 0 | PING |
| responder 0 | ACK of 0, PING |
| initiator 1 | ACK of 0, STREAM 0 with `start` |
| responder 1 | ACK of 0 and 1, STREAM 0 with `started`, STREAM 1 with a header (client 192.0.2.7, port 40,000, for service port 8080) and `GET / HTTP/1.0`, two line ends |
| initiator 2 | ACK of 0 and 1, STREAM 1 with the answer 0 and `HTTP/1.0 204 No Content`, two line ends, and FIN |""",
        *first.data_lines(
            (initiator, 0, ping()),
            (responder, 0, ack(0, 0) + ping()),
            (initiator, 1, ack(0, 0) + stream(0, 0, control(start))),
            (
                responder,
                1,
                ack(1, 1)
                + stream(0, 0, control({"type": "started", "generation": 1}))
                + stream(1, 0, header + b"GET / HTTP/1.0\r\n\r\n"),
            ),
            (initiator, 2, ack(1, 1) + stream(1, 0, b"\0HTTP/1.0 204 No Content\r\n\r\n", fin=True)),
        ),
    )

    source = bytes([192, 0, 2, 9]) + struct.pack(">H", 51_820)
    secret, cookie_nonce = fixed("cookie secret"), fixed("cookie nonce", 24)
    cookie = blake2b(source, 16, secret)
    reply_key = blake2b(b"cookie--" + public(S_R), 32)
    mac1 = first.initiation[-32:-16]
    sealed = sodium.crypto_aead_xchacha20poly1305_ietf_encrypt(cookie, mac1, cookie_nonce, reply_key)
    retry = Exchange("retry", (0x11121314, 0xB1B2B3B4), (TIME + 1, 123_456_789), FIRST_ASKED, HELD, cookie=cookie)
    say(
        """
### 20.4 A cookie reply, and a retry with mac2

In answer to the initiation of 20.2, had it come over UDP from 192.0.2.9, port 51,820. The retry a second later carries the
mac2. On UDP both initiations would have 1,200 bytes; nothing else would be different in how they are computed.""",
        ("cookie secret", secret),
        ("source", source),
        ("cookie", cookie),
        ("cookie reply key", reply_key),
        ("nonce", cookie_nonce),
        ("additional data", mac1),
        ("cookie reply", struct.pack("<II", 3, first.index_i) + cookie_nonce + sealed),
        ("retry initiator ephemeral private", retry.e_i),
        ("retry initiator index", retry.index_i),
        ("retry payload 1", retry.payload1),
        ("retry initiation", retry.initiation),
    )

    rekey = Exchange("rekey", (0x21222324, 0xC1C2C3C4), (TIME + 120, 0), HELD, HELD)
    say(
        """
### 20.5 A rekey

120 s later, on the same carrier. The initiation names the connection that is held, and the response answers with the same
id. So the counters go on. The initiator leaves out number 3.

| message | frames before PADDING |
|---|---|
| initiator 4 | PING |
| responder 2 | ACK of 4 and of 0 to 2, PING |""",
        ("connection id named", HELD),
        ("connection id answered", HELD),
        *rekey.inputs(),
        *rekey.results(),
        *rekey.data_lines((initiator, 4, ping()), (responder, 2, ack(4, 0, 0, 2) + ping())),
    )

    resumed = Exchange("resumption", (0x31323334, 0xD1D2D3D4), (TIME + 150, 0), HELD, HELD)
    say(
        """
### 20.6 A resumption

The carrier broke. On a new one the initiation names the same connection, and the response answers with the same id.
Responder 2 was lost with the carrier: its PING is sent again as part of a new message.

| message | frames before PADDING |
|---|---|
| initiator 5 | ACK of 0 and 1, PING |
| responder 3 | ACK of 4 and 5 and of 0 to 2, PING |""",
        ("connection id named", HELD),
        ("connection id answered", HELD),
        *resumed.inputs(),
        *resumed.results(),
        *resumed.data_lines(
            (initiator, 5, ack(1, 1) + ping()),
            (responder, 3, ack(5, 1, 0, 2) + ping()),
        ),
    )

    refused = Exchange("refused resumption", (0x41424344, 0xE1E2E3E4), (TIME + 900, 0), HELD, FRESH)
    say(
        """
### 20.7 A refused resumption

The responder has forgotten the connection. It answers with a different id. The initiator resets its streams and begins anew:
both counters are 0 again, with new keys.

| message | frames before PADDING |
|---|---|
| initiator 0 | PING |
| responder 0 | ACK of 0, PING |""",
        ("connection id named", HELD),
        ("connection id answered", FRESH),
        *refused.inputs(),
        *refused.results(),
        *refused.data_lines((initiator, 0, ping()), (responder, 0, ack(0, 0) + ping())),
    )
    return "\n\n".join(parts) + "\n"


def text(private):
    return base64.b64encode(public(private)).decode()


def main():
    arguments = argparse.ArgumentParser(description="Test vectors of docs/PROTOCOL.md")
    action = arguments.add_mutually_exclusive_group()
    action.add_argument("--check", metavar="FILE")
    action.add_argument("--write", metavar="FILE")
    options = arguments.parse_args()
    expected = section()
    path = options.check or options.write
    if not path:
        print(expected, end="")
        return 0
    with open(path, encoding="utf-8") as file:
        document = file.read()
    at = document.find("\n" + HEADING + "\n")
    before, found = (document[: at + 1], document[at + 1 :]) if at >= 0 else (document + "\n", "")
    if options.write:
        with open(path, "w", encoding="utf-8") as file:
            file.write(before + expected)
        return 0
    if found == expected:
        return 0
    lines = difflib.unified_diff(found.splitlines(), expected.splitlines(), path, "vectors.py", lineterm="")
    print("\n".join(lines), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
