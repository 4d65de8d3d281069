"""Handshakes, macs and sessions (§4, §5, §7). Noise itself is the library's."""

import base64
import hashlib
import hmac
import os
import struct
import time
import warnings

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from noise.connection import Keypair, NoiseConnection

from . import wire

PROTOCOL_NAME = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2b"
PROLOGUE = b"kl-tunnel v1"
NO_PSK = bytes(32)
SMALLEST_INITIATION, LARGEST_HANDSHAKE = 256, 1_200
INITIATION_OVERHEAD, RESPONSE_OVERHEAD = 136, 92
REKEY_AFTER, REJECT_AFTER = 120, 180
WINDOW = 8_192

# The library warns of ephemeral keys that are given to it. Here a failed response has to be followed by another try.
warnings.filterwarnings("ignore", message="One of ephemeral keypairs")


class Dropped(Exception):
    """Why a message was dropped."""


def now():
    """Seconds, by a clock that goes on while the machine sleeps (§7.3)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def generate_key():
    return os.urandom(32)


def public_key(private):
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def as_text(key):
    return base64.b64encode(key).decode()


def random_index(taken):
    while (index := int.from_bytes(os.urandom(4), "little")) in taken:
        pass
    return index


# ---- Macs (§5) ----


def mac1(receiver, message):
    key = hashlib.blake2b(b"mac1----" + receiver, digest_size=32).digest()
    return hashlib.blake2b(message, digest_size=16, key=key).digest()


def with_macs(receiver, message):
    # mac2 is zero on byte streams.
    return message + mac1(receiver, message) + bytes(16)


def check_mac1(own, message):
    if not hmac.compare_digest(mac1(own, message[:-32]), message[-32:-16]):
        raise Dropped("mac1")


# ---- Timestamps (§4.3) ----


def timestamp(last=bytes(12)):
    seconds, nanoseconds = divmod(time.time_ns(), 10**9)
    present = struct.pack(">QI", 2**62 + 10 + seconds, nanoseconds)
    if present > last:
        return present
    seconds, nanoseconds = struct.unpack(">QI", last)
    carry, nanoseconds = divmod(nanoseconds + 1, 10**9)
    return struct.pack(">QI", seconds + carry, nanoseconds)


# ---- Sessions (§7) ----


class Session:
    """Two keys and two indices. Its cipher states come from the library; their nonces are set for each message."""

    def __init__(self, noise, local_index, remote_index, local, remote, since):
        self.sealing = noise.noise_protocol.cipher_state_encrypt
        self.opening = noise.noise_protocol.cipher_state_decrypt
        self.local_index, self.remote_index = local_index, remote_index
        self.local, self.remote = local, remote  # transport parameters
        self.since = since
        self.connection = None  # set when it is confirmed
        self.top, self.seen = -1, 0  # replay window: bit n of `seen` is number top - n

    @property
    def age(self):
        return now() - self.since

    @property
    def room(self):
        """The longest plaintext that the other side takes."""
        return self.remote.max_message_size - wire.DATA_OVERHEAD

    def seal(self, counter, plaintext):
        # Not NoiseConnection.encrypt: that refuses what is longer than Noise's 65,535 bytes, which a message of
        # 65,552 bytes is by one.
        self.sealing.n = counter
        return wire.data_header(self.remote_index, counter) + self.sealing.encrypt_with_ad(b"", plaintext)

    def open(self, message):
        _, counter = wire.read_data_header(message)
        if counter > wire.LARGEST_NUMBER:
            raise Dropped("counter too great")
        behind = self.top - counter
        if behind >= WINDOW or (behind >= 0 and self.seen >> behind & 1):
            raise Dropped("counter seen or too old")
        self.opening.n = counter
        try:
            plaintext = self.opening.decrypt_with_ad(b"", message[16:])
        except InvalidTag:
            raise Dropped("data message doesn't open") from None
        if behind < 0:
            self.seen = (self.seen << -behind | 1) & ((1 << WINDOW) - 1)
            self.top = counter
        else:
            self.seen |= 1 << behind
        return counter, plaintext


def noise_state(private, psk, ephemeral=None):
    noise = NoiseConnection.from_name(PROTOCOL_NAME)
    noise.set_prologue(PROLOGUE)
    noise.set_psks(psk)
    noise.set_keypair_from_private_bytes(Keypair.STATIC, private)
    if ephemeral:
        noise.set_keypair_from_private_bytes(Keypair.EPHEMERAL, ephemeral)
    return noise


# ---- Initiator ----


class Initiation:
    """An initiation, and what is needed to read its response."""

    def __init__(self, private, responder, psk, index, stamp, parameters, ephemeral=None):
        self.private, self.responder, self.psk = private, responder, psk
        self.index, self.parameters, self.timestamp = index, parameters, stamp
        self.ephemeral = ephemeral or generate_key()
        self.since = now()
        payload = stamp + parameters.encode()
        self.payload = wire.pad_parameters(payload, SMALLEST_INITIATION - INITIATION_OVERHEAD)
        self.message = self.begin()

    def begin(self):
        """Writes message 1. The ephemeral key is kept, so each call gives the same bytes and a fresh state."""
        self.noise = noise_state(self.private, self.psk, self.ephemeral)
        self.noise.set_as_initiator()
        self.noise.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, self.responder)
        self.noise.start_handshake()
        header = struct.pack("<II", wire.INITIATION, self.index)
        return with_macs(self.responder, header + bytes(self.noise.write_message(self.payload)))

    def finish(self, response):
        """Reads the response. One that fails leaves the handshake waiting (§4.5)."""
        if not RESPONSE_OVERHEAD <= len(response) <= LARGEST_HANDSHAKE:
            raise Dropped("size of a response")
        check_mac1(public_key(self.private), response)
        try:
            payload = self.noise.read_message(response[12:-32])
            remote = wire.Parameters.decode(payload)
        except (InvalidTag, ValueError):
            self.begin()
            raise Dropped("response doesn't open: another PSK?") from None
        except wire.Malformed as error:
            self.begin()
            raise Dropped(f"parameters: {error}") from None
        (remote_index,) = struct.unpack_from("<I", response, 4)
        return Session(self.noise, self.index, remote_index, self.parameters, remote, self.since)


# ---- Responder ----


class Opened:
    """An initiation that opened. Whether it is to be answered is for the caller to decide (§4.4)."""

    def __init__(self, private, message, ephemeral=None):
        if not SMALLEST_INITIATION <= len(message) <= LARGEST_HANDSHAKE:
            raise Dropped("size of an initiation")
        check_mac1(public_key(private), message)
        (self.remote_index,) = struct.unpack_from("<I", message, 4)
        self.noise = noise_state(private, NO_PSK, ephemeral)  # the psk is known once the key is
        self.noise.set_as_responder()
        self.noise.start_handshake()
        try:
            payload = bytes(self.noise.read_message(message[8:-32]))
        except (InvalidTag, ValueError):
            raise Dropped("initiation doesn't open") from None
        self.key = self.noise.noise_protocol.handshake_state.rs.public_bytes
        self.timestamp, self.size = payload[:12], len(message)
        try:
            self.remote = wire.Parameters.decode(payload[12:])
        except wire.Malformed as error:
            raise Dropped(f"parameters: {error}") from None

    def answer(self, psk, index, local):
        """The response and its session."""
        self.noise.set_psks(psk)
        header = struct.pack("<III", wire.RESPONSE, index, self.remote_index)
        response = with_macs(self.key, header + bytes(self.noise.write_message(local.encode())))
        if len(response) > self.size:
            raise Dropped("response longer than initiation")
        return response, Session(self.noise, index, self.remote_index, local, self.remote, now())
