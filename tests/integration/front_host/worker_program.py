"""Waits to be stopped: a service without clients."""

import signal

signal.sigwait([signal.SIGTERM])
