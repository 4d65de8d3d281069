"""Key pairs and key files, made without the project's own code: a key that `wg genkey` would make has to work."""

import base64
import os
import pathlib

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat


class KeyPair:
    def __init__(self):
        private = X25519PrivateKey.generate()
        self.private = _text(private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()))
        self.public = _text(private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))

    def write(self, path):
        """Writes the private key the way the agents accept it: mode 0600."""
        return write_secret(path, self.private)


def new_psk():
    return _text(os.urandom(32))


def write_secret(path, text, mode=0o600):
    path = pathlib.Path(path)
    path.touch(mode=0o600)
    path.write_text(text + "\n")
    path.chmod(mode)
    return path


def _text(raw):
    return base64.b64encode(raw).decode()
