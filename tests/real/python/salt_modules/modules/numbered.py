"""The ground truth of fault tests: the minion itself writes down which job it ran, and when."""

import os
import time


def note(number, directory, **kwargs):
    """Appends number, jid and time to this minion's file in the directory."""
    line = f"{number} {kwargs['__pub_jid']} {time.time():.6f}\n"
    file = os.open(os.path.join(directory, __opts__["id"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)
    return number
