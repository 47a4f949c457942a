import signal


def pytest_configure() -> None:
    # Started in the background by a shell, this run would ignore Ctrl-C, and so would what the tests start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
