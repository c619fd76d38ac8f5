"""Carries bytes and commands to a device: ssh (paramiko) and local, behind one small interface."""
