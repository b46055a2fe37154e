#!/usr/bin/env python3
"""Makes version1.txt: cache files of version 1 and a hybrid envelope, from nothing but Python's
standard library and, for AES-256-GCM and the DER form of the RSA key, its `cryptography` package.

Everything that is random in practice is fixed here: the RSA key, its OAEP seed, the AES keys, the
nonces. So running it again gives the same bytes: `./version1.py | diff - version1.txt`.

OAEP is written out as RFC 8017, 7.1.1 has it; at the end `cryptography` opens all of it again.
"""

import base64
import hashlib
import hmac
import json

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

P = int(
    "f2344655b4ecc6b4b8a80ee9bc834b4317f4d7615d3ce812ddd28d370942fd07e03ab843254c05662b4f2c84"
    "c5d5e2a3a9fc39880d265f4ce078958ea5183c2cb54f51120e601d8abb35a81c9367e2b15958d1fde6eba54b"
    "3a104737c7b65e6747979e9587af95f4d1ed9589b5a5de63a6cbceff76fb0afb6cfc91ac92a4bc0d"
    , 16)
Q = int(
    "bd80fa0e2500ab9c152f785f76acd5868959925e93de28f9a9b96e2045e195df107b1be2d564075c47156d52"
    "aa83925cdc7c9b0e820108d18618e8c87dc26bff286b9810447c012a60e4c562c3de882128d0e1c4ae1ad8ce"
    "3d4937e089479d1c92306d8071a460187008bd8073b6f8bbca79a048633849f49c486828fe25b931"
    , 16)
E = 65537
N = P * Q
D = pow(E, -1, (P - 1) * (Q - 1))
SIZE = 256  # bytes of a 2048-bit number

CREDENTIAL = bytes(range(0x20))  # what systemd delivers as psi-cache-key
WRAPPED_AES_KEY = bytes(range(0x40, 0x60))  # what the token gives back
OAEP_SEED = bytes(range(0x60, 0x80))
HMAC_KEY = bytes(range(0x80, 0xA0))
NONCE = bytes(range(0xA0, 0xAC))


def mgf1(seed, length):
    blocks = (length + 31) // 32
    digest = lambda counter: hashlib.sha256(seed + counter.to_bytes(4, "big")).digest()
    return b"".join(digest(i) for i in range(blocks))[:length]


def xor(a, b):
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


def oaep_encrypt(message):
    label_hash = hashlib.sha256(b"").digest()
    filler = bytes(SIZE - len(message) - 2 * 32 - 2)
    block = label_hash + filler + b"\x01" + message
    masked_block = xor(block, mgf1(OAEP_SEED, len(block)))
    masked_seed = xor(OAEP_SEED, mgf1(masked_block, 32))
    number = int.from_bytes(b"\x00" + masked_seed + masked_block, "big")
    return pow(number, E, N).to_bytes(SIZE, "big")


def gcm(key, plaintext):
    return NONCE + AESGCM(key).encrypt(NONCE, plaintext, None)


def envelope(plaintext):
    wrapped = oaep_encrypt(WRAPPED_AES_KEY)
    return len(wrapped).to_bytes(2, "big") + wrapped + gcm(WRAPPED_AES_KEY, plaintext)


def entry_key(mapping):
    canonical = json.dumps(mapping, sort_keys=True, separators=(",", ":"))
    return hmac.new(HMAC_KEY, canonical.encode(), "sha256").hexdigest()


def infisical(key):
    return {"provider": "infisical", "project": "myproject", "path": "/myapp", "key": key}


VALUES = [
    (infisical("DB_HOST"), b"db.example.com"),
    (infisical("DB_PASSWORD"), b"\x00not text\xff\n"),
    (infisical("Gr\u00f6\u00dfe \U0001f600\x7f"), b""),
]

CONTENTS = {
    "version": 2,
    "written_at": 1795550000,
    "hmac_key": base64.b64encode(HMAC_KEY).decode(),
    "entries": {entry_key(m): base64.b64encode(v).decode() for m, v in VALUES},
}
# Version 1 of the contents: by Podman's ids, without a key.
OLDER_CONTENTS = {
    "version": 1,
    "written_at": 1795550000,
    "entries": {"0123456789abcdef012345678": base64.b64encode(b"db.example.com").decode()},
}


def tpm_file(contents):
    return b"PSIC\x01\x01" + gcm(CREDENTIAL, json.dumps(contents).encode())


def hsm_file(contents):
    return b"PSIC\x01\x02" + envelope(json.dumps(contents).encode())


key = rsa.RSAPrivateNumbers(
    P, Q, D, D % (P - 1), D % (Q - 1), pow(Q, -1, P), rsa.RSAPublicNumbers(E, N)
).private_key()
private_der = key.private_bytes(
    serialization.Encoding.DER,
    serialization.PrivateFormat.PKCS8,
    serialization.NoEncryption(),
)

vectors = {
    "rsa_private_key_pkcs8": private_der,
    "credential": CREDENTIAL,
    "envelope_plaintext": b"correct horse battery staple",
    "envelope": envelope(b"correct horse battery staple"),
    "tpm_file": tpm_file(CONTENTS),
    "hsm_file": hsm_file(CONTENTS),
    "tpm_file_older_contents": tpm_file(OLDER_CONTENTS),
    "hsm_file_older_contents": hsm_file(OLDER_CONTENTS),
}

oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
for name, start in [("envelope", 0), ("hsm_file", 6)]:
    wrapped = vectors[name][start + 2 : start + 2 + SIZE]
    assert key.decrypt(wrapped, oaep) == WRAPPED_AES_KEY

for name, value in vectors.items():
    print(f"{name} = {value.hex()}")
