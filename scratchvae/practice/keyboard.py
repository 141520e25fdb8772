"""A whole terminal screen that is repainted without flicker, and single keys read from it."""

from __future__ import annotations

import codecs
import os
import re
import signal
import sys
import threading
import time
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_NAMES = {
    **{"A": "up", "B": "down", "C": "right", "D": "left", "H": "home", "F": "end"},
    **{"5~": "pageup", "6~": "pagedown"},
    **{"\r": "enter", "\n": "enter", "\x7f": "back", "\b": "back", "\x04": "quit", " ": "space"},
}
_WINDOWS = {
    **{"H": "up", "P": "down", "M": "right", "K": "left", "G": "home", "O": "end"},
    **{"I": "pageup", "Q": "pagedown"},
}
_TOKEN = re.compile(r"\x1b[\[O]([0-9;]*)([A-Za-z~])|\x1b[^\[O]?|[^\x1b]", re.DOTALL)
_UNFINISHED = re.compile(r"\x1b(?:[\[O][0-9;]*)?$")

# The alternate screen, no cursor, no wrapping at the right edge; and all of it undone.
_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
_LEAVE = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"


class Keyboard:
    """The terminal behind `console`, taken over in a ``with`` block and given back after it."""

    def __init__(self, console: Console, stream: TextIO) -> None:
        self._console, self._stream = console, stream
        self._shown: list[str] = []
        self._size = (0, 0)
        self._typed = ""
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._modes: Any = None
        self._handler: Any = None

    def __enter__(self) -> Keyboard:
        if sys.platform == "win32":
            os.system("")  # switches escape sequences on
        else:
            import termios
            import tty

            descriptor = sys.stdin.fileno()
            self._modes = termios.tcgetattr(descriptor)
            tty.setcbreak(descriptor, termios.TCSADRAIN)
            modes = termios.tcgetattr(descriptor)
            modes[6][termios.VSUSP] = b"\0"  # Ctrl-Z would leave the shell with this screen
            termios.tcsetattr(descriptor, termios.TCSADRAIN, modes)
        if threading.current_thread() is threading.main_thread():  # so would SIGTERM
            self._handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
        self._write(_ENTER)
        return self

    def __exit__(self, *error: object) -> None:
        if sys.platform != "win32":
            import termios

            with suppress(termios.error):  # the window is closed
                termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, self._modes)
        with suppress(OSError):
            self._write(_LEAVE)
        if self._handler is not None:
            signal.signal(signal.SIGTERM, self._handler)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows of the window now."""
        with suppress(OSError):
            columns, rows = os.get_terminal_size(self._stream.fileno())
            if columns and rows:
                return columns, rows
        return 80, 24

    def paint(self, lines: Sequence[Text]) -> None:
        """Show these lines from the top; only what differs from the last time is written."""
        columns, rows = self.size
        out = ""
        if (columns, rows) != self._size:
            self._size, self._shown, out = (columns, rows), [], "\x1b[2J"
        wanted = [self._ansi(line, columns) for line in lines[:rows]]
        wanted += [" " * columns] * (len(self._shown) - len(wanted))
        for row, line in enumerate(wanted):
            if row >= len(self._shown) or self._shown[row] != line:
                out += f"\x1b[{row + 1};1H{line}"
        self._shown = wanted
        if out:
            self._write(out)

    def _ansi(self, line: Text, columns: int) -> str:
        line = line.copy()
        line.truncate(columns, overflow="crop", pad=True)
        with self._console.capture() as capture:
            self._console.print(
                line, end="", no_wrap=True, overflow="ignore", crop=False, soft_wrap=True
            )
        return capture.get()

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()

    def key(self, timeout: float) -> str | None:
        """The next key, or None if there is none for `timeout` seconds.

        A letter in lower case and half width, or the name of another key: up, down, left, right,
        home, end, pageup, pagedown, enter, escape, space, back, quit (Ctrl-D, a closed terminal).
        """
        if not self._typed:
            self._typed = self._read(timeout)
        if _UNFINISHED.search(self._typed):  # an arrow arrives as three characters
            self._typed += self._read(0.05)
        match = _TOKEN.match(self._typed)
        if not match:
            self._typed = ""
            return None
        self._typed = self._typed[match.end() :]
        token = match.group()
        if end := match[2]:
            return _NAMES.get(match[1] + end if end == "~" else end, "unknown")
        if token[0] == "\x1b":
            return "escape"
        letter = unicodedata.normalize("NFKC", token)  # whatever the input method is set to
        return _NAMES.get(letter, letter.lower())

    def _read(self, timeout: float) -> str:
        if sys.platform == "win32":
            import msvcrt

            deadline = time.monotonic() + timeout
            while not msvcrt.kbhit():
                if time.monotonic() >= deadline:
                    return ""
                time.sleep(0.02)
            character = msvcrt.getwch()
            if character == "\x03":
                raise KeyboardInterrupt
            if character in "\0\xe0":  # of an arrow, say, whose second code waits; or it is an à
                try:
                    msvcrt.ungetwch("\0")  # fails where a code waits; kbhit() does not see it
                except OSError:
                    name = _WINDOWS.get(msvcrt.getwch(), "")
                    code = next((code for code, known in _NAMES.items() if known == name), "Z")
                    return f"\x1b[{code}"
                msvcrt.getwch()
            return character
        import select

        descriptor = sys.stdin.fileno()
        if not select.select([descriptor], [], [], max(0.0, timeout))[0]:
            return ""
        try:
            data = os.read(descriptor, 1024)
        except OSError:  # the terminal is closed
            data = b""
        return self._decode(data) if data else "\x04"
