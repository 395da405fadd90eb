"""Hashes of secrets: argon2id (RFC 9106) for what is stored, and random tokens."""

from __future__ import annotations

import base64
import hashlib
import secrets

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

# Passwords are chosen by people: the parameters that OWASP recommends (46 MiB, one pass), about 50 ms.
PASSWORDS = PasswordHasher(time_cost=1, memory_cost=47_104, parallelism=1, type=Type.ID)
# The secret of a key is 256 random bits, which nobody can find by trying, however fast the hash is. A check must stay
# cheap (below 1 ms), because anyone can cause it by sending a wrong key.
KEYS = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1, type=Type.ID)


def new_token() -> str:
    """Return a random token of 256 bits, as 64 hexadecimal digits."""
    return secrets.token_hex(32)


def hash_token(token: str) -> str:
    """Return the SHA-256 of a random token in hex. A token of 256 bits needs no slow hash."""
    return hashlib.sha256(token.encode()).hexdigest()


def verify(hasher: PasswordHasher, stored: str | None, secret: str) -> bool:
    """Return whether a secret matches a stored hash.

    Args:
        hasher: The parameters of stored hashes.
        stored: The hash. For None, the same work is done with a hash that nothing matches, so that the time does not
            disclose whether a key or an account exists.
        secret: The secret.
    """
    try:
        hasher.verify(_unmatched(hasher) if stored is None else stored, secret)
    except (VerificationError, InvalidHashError):
        return False
    return stored is not None


def _unmatched(hasher: PasswordHasher) -> str:
    """Return a hash of zeros, with the parameters of the hasher."""
    salt, digest = (base64.b64encode(bytes(size)).decode().rstrip("=") for size in (hasher.salt_len, hasher.hash_len))
    return f"$argon2id$v=19$m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}${salt}${digest}"
