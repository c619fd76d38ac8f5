"""The table of transports: which class carries bytes to which kind of device."""

from __future__ import annotations

from importlib import import_module

from edgebench.errors import UserError, did_you_mean
from edgebench.records import Device
from edgebench.transport.base import Credentials, Transport

TRANSPORTS = {
    "local": "edgebench.transport.local:LocalTransport",
    "ssh": "edgebench.transport.ssh:SshTransport",
}


_answers = Credentials()


def answer_with(credentials: Credentials) -> None:
    """Who answers from now on what logins of this process ask; the door decides it, once."""
    global _answers  # one person sits at one terminal, whoever opens the transport
    _answers = credentials


def open_transport(device: Device, credentials: Credentials | None = None) -> Transport:
    """The way to `device`, not yet connected; UserError for a kind of transport that does not exist."""
    credentials = credentials or _answers
    if device.transport not in TRANSPORTS:
        raise UserError(
            f'{device.name}: no transport "{device.transport}"',
            hint=did_you_mean(device.transport, TRANSPORTS),
        )
    module, _, name = TRANSPORTS[device.transport].partition(":")
    made: Transport = getattr(import_module(module), name)(device, credentials=credentials)
    return made
